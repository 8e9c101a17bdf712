"""Rows of a parameter that each replica steps, where masters and optimizer states are divided."""

from collections.abc import Sequence

# From the first row to the one after the last.
Rows = tuple[int, int]


def divided(shape: Sequence[int], shards: int) -> bool:
    """Whether each of `shards` replicas has rows of a parameter; with fewer rows all have all."""
    return shards > 1 and len(shape) > 0 and shape[0] >= shards


def rows_of(shape: Sequence[int], shards: int, replica: int) -> Rows:
    """The rows of one replica; replicas have as many, or one more."""
    return replica * shape[0] // shards, (replica + 1) * shape[0] // shards


def padded_rows(shape: Sequence[int], shards: int) -> int:
    """How many rows the replica has that has most."""
    return -(-shape[0] // shards)
