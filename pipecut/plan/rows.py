"""Rows of a parameter that each replica of a stage steps, where masters and optimizer states are divided."""

from collections.abc import Sequence

# From the first row to the one after the last.
Rows = tuple[int, int]


def divided(shape: Sequence[int], shards: int) -> bool:
    """Whether each of so many replicas has rows of a parameter; one with fewer rows is whole on all."""
    return shards > 1 and len(shape) > 0 and shape[0] >= shards


def rows_of(shape: Sequence[int], shards: int, replica: int) -> Rows:
    """Those of one replica, as even as can be."""
    return replica * shape[0] // shards, (replica + 1) * shape[0] // shards


def padded_rows(shape: Sequence[int], shards: int) -> int:
    """Those of the replica that has most."""
    return -(-shape[0] // shards)
