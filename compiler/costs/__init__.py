"""What every operator costs on every kind of device."""

from pipecut.compiler.costs.roofline import CostedGraph, cost

__all__ = ["CostedGraph", "cost"]
