"""The version of pipecut. Imports nothing, so that every module may say it."""

__version__ = "0.1.0"
