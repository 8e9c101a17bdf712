"""Rows of parameters are divided evenly over replicas, and nothing is left out."""

from hypothesis import given
from hypothesis import strategies as st

from pipecut.runtime.shards import divided, rows_of


@given(rows=st.integers(1, 1000), shards=st.integers(2, 64))
def test_every_row_is_of_one_replica_and_none_has_more_than_another_and_one(rows: int, shards: int) -> None:
    if not divided([rows, 3], shards):
        assert rows < shards
        return
    parts = [rows_of([rows, 3], shards, replica) for replica in range(shards)]
    assert [row for begin, end in parts for row in range(begin, end)] == list(range(rows))
    sizes = [end - begin for begin, end in parts]
    assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1


def test_a_scalar_is_whole_on_every_replica() -> None:
    assert not divided([], 2)
