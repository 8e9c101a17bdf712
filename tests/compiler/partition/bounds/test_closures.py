"""What stands before a boundary with each closure, counted by hand."""

from dataclasses import replace
from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecut.compiler.partition.bounds import closures, segments
from pipecut.compiler.partition.bounds.amounts import Quantities
from pipecut.compiler.partition.bounds.boundaries import LooseWork
from pipecut.compiler.partition.bounds.closure_bound import unbeaten
from pipecut.compiler.partition.bounds.closures import closures_of, shared_by_several
from pipecut.compiler.partition.problem import Problem, SharedParameter, StageDevice
from tests.compiler.partition.problems import block, chain, device, tensor

EDGES = frozenset({(0, 1), (0, 2), (1, 3), (2, 3)})


def diamond() -> Problem:
    """Blocks of 1, 2, 4 and 8 seconds; two branches, tensors of 1, 10 and 100 bytes."""
    blocks = tuple(block(seconds, saved=1) for seconds in (1.0, 2.0, 4.0, 8.0))
    tensors = tensor(0, 1, 2, size=1.0), tensor(1, 3, size=10.0), tensor(2, 3, size=100.0)
    return replace(chain([0.0] * 4, 2), blocks=blocks, edges=EDGES, tensors=tensors)


def test_each_closure_weighs_its_blocks_and_what_crosses() -> None:
    result = closures_of(diamond())
    assert result is not None
    rows = zip(
        result.amounts.seconds["gpu"],
        result.amounts.saved,
        result.crossing.forward_bytes,
        result.crossing.messages,
        strict=True,
    )
    assert sorted(map(tuple, np.array(list(rows)).tolist())) == [
        (0.0, 0.0, 0.0, 0.0),
        (1.0, 1.0, 1.0, 1.0),
        (3.0, 2.0, 11.0, 2.0),
        (5.0, 2.0, 101.0, 2.0),
        (7.0, 3.0, 110.0, 2.0),
    ]
    assert result.everything.seconds["gpu"].tolist() == [15.0] and result.loose == 0.0


def test_loose_blocks_are_due_where_they_are_needed_and_free_where_they_can_run() -> None:
    # Block 2 stands beside 1 and 3 and takes 4 seconds; block 4 needs it.
    blocks = tuple(block(1.0) for _ in range(5))
    edges = frozenset({(0, 1), (1, 3), (3, 4), (0, 2), (2, 4)})
    tensors = tensor(0, 2, size=7.0), tensor(2, 4, size=5.0)
    problem = replace(chain([1.0] * 5, 2), blocks=blocks, edges=edges, tensors=tensors)
    with patch.object(segments, "BESIDE", 3), patch.object(closures, "MOST_LOOSE", 1.0):
        result = closures_of(problem)
    assert result is not None and result.loose == 1.0
    # Nothing, 0, 0-1, 0-3, everything that is not loose.
    assert result.loose_work.free.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert result.loose_work.due.tolist() == [0.0, 0.0, 0.0, 0.0, 1.0]
    # Between its source and its user the least of 7 and 5 bytes crosses.
    assert result.crossing.forward_bytes.tolist() == [0.0, 5.0, 5.0, 5.0, 0.0]


def test_what_is_done_early_pays_for_what_crosses() -> None:
    # For each second of a run half a second crosses; for more than 0.5 seconds of others, one.
    runs = ((4.0, np.array([0.0, 2.0, 0.0])),)
    due, free, beside, paying = (np.array([amount]) for amount in (1.0, 11.0, 2.0, 8.0))
    work = LooseWork(due, free, beside, 0.5, np.array([0.0, 1.0, 0.0]), paying, 0.0, runs)
    link = StageDevice("gpu", 1, 1, 1.0, 0.0)

    def worth(seconds: float) -> float:
        return float(work.worth(slice(None), np.array([seconds]), link)[0])

    assert worth(1.5) == 1.5
    # 4.5 seconds do 3 of runs, of which the next stage is spared 1.5.
    assert worth(6.0) == 3.0
    # All of them: 4 of the 8 seconds of runs, and 2 - 1 of the others.
    assert worth(np.inf) == 6.0
    # Where all runs are done and the longest of them pays nothing.
    assert replace(work, spared=4.0).worth(slice(None), np.array([np.inf]), link) == [8.0]


def test_too_much_that_is_loose_makes_no_closures() -> None:
    edges = frozenset({(0, 1), (1, 3), (3, 4), (0, 2), (2, 4)})
    problem = replace(chain([1.0, 1.0, 9.0, 1.0, 1.0], 2), edges=edges)
    with patch.object(segments, "BESIDE", 3):
        assert closures_of(problem) is None


def test_what_the_same_blocks_share_counts_together() -> None:
    shared = (
        SharedParameter("a", 3, (0, 2)),
        SharedParameter("b", 4, (0, 2), {"gpu": 1.0}, {"gpu": 0.5}, 2),
        SharedParameter("one user", 100, (1,)),
        SharedParameter("light", 0, (0, 1)),
    )
    problem = replace(chain([1.0] * 3, 2), shared=shared, stage_devices=(device(10),) * 2)
    (merged,) = shared_by_several(problem)
    assert (merged.name, merged.bytes, merged.saved_bytes) == ("a", 7, 2)
    assert merged.seconds == {"gpu": 1.0} and merged.forward_seconds == {"gpu": 0.5}


def test_users_are_counted_in_every_closure() -> None:
    problem = replace(chain([1.0] * 3, 2, capacity=10))
    problem = replace(problem, shared=(SharedParameter("tied", 5, (0, 2)),))
    result = closures_of(problem)
    assert result is not None and result.all_users.tolist() == [2.0]
    assert [row.tolist() for row in result.users] == [[0.0, 1.0, 1.0]]


def test_what_one_block_uses_is_added_to_it() -> None:
    shared = SharedParameter("weight", 5, (1,), {"gpu": 0.5}, {"gpu": 0.25}, 3)
    problem = replace(chain([1.0, 2.0], 2), shared=(shared, SharedParameter("tied", 9, (0, 1))))
    quantities = Quantities(("gpu",))
    named = quantities.named(quantities.of_blocks(problem))
    assert named.seconds["gpu"].tolist() == [1.0, 2.5]
    assert named.forward_seconds["gpu"].tolist() == [0.0, 0.25]
    assert named.saved.tolist() == [0.0, 3.0] and named.parameters.tolist() == [0.0, 5.0]
    assert named.seconds_on(device(), True).tolist() == [1.0, 2.75]
    assert named.bytes_on(device(in_flight=2), False).tolist() == [0.0, 11.0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=2), min_size=1, max_size=12))
def test_unbeaten_rows_are_those_that_no_other_equals_or_exceeds(rows: list[list[int]]) -> None:
    distinct = {tuple(row) for row in rows}
    expected = {
        row
        for row in distinct
        if not any(all(a >= b for a, b in zip(r, row, strict=True)) for r in distinct - {row})
    }
    front = unbeaten(np.array(rows, dtype=float))
    assert sorted(map(tuple, front.tolist())) == sorted(expected)
