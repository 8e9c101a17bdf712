"""Modules of the user's model that are not split: they run as they are, on one stage each."""
