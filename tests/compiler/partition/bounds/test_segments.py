"""Segments and closures of small graphs."""

from dataclasses import replace
from itertools import product
from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecut.compiler.partition.bounds import segments
from pipecut.compiler.partition.bounds.segments import closures_within, needs_of, segments_of
from pipecut.compiler.partition.problem import Problem
from tests.compiler.partition.problems import chain

DIAMOND = frozenset({(0, 1), (0, 2), (1, 3), (2, 3), (3, 4)})


def diamond() -> Problem:
    """Two branches between blocks 0 and 3, and a block after them."""
    return replace(chain([1.0] * 5, 2), edges=DIAMOND)


def test_a_chain_has_a_segment_per_block() -> None:
    cut = segments_of(needs_of(chain([1.0] * 3, 2)))
    assert cut is not None
    assert [part.tolist() for part in cut.blocks] == [[0], [1], [2]]
    assert [table.tolist() for table in cut.tables] == [[[False]]] * 3


def test_branches_share_a_segment() -> None:
    cut = segments_of(needs_of(diamond()))
    assert cut is not None
    assert [part.tolist() for part in cut.blocks] == [[0], [1, 2, 3], [4]]
    # Nothing, either branch, both; with block 3 the next segment begins.
    assert sorted(map(tuple, cut.tables[1].tolist())) == [
        (False, False, False),
        (False, True, False),
        (True, False, False),
        (True, True, False),
    ]


def test_a_block_beside_many_others_is_loose() -> None:
    problem = replace(
        chain([1.0] * 5, 2), edges=frozenset({(0, 1), (1, 3), (3, 4), (0, 2), (2, 4)})
    )
    with patch.object(segments, "BESIDE", 3):
        needs = needs_of(problem)
    assert needs.kept.tolist() == [True, True, False, True, True]
    assert needs.after[0] == {1, 4} and needs.before[4] == {0, 3}


def test_too_many_closures_are_none() -> None:
    with patch.object(segments, "MOST_OF_A_SEGMENT", 3):
        assert closures_within([(), (), ()]) is None
    with patch.object(segments, "MOST", 3):
        assert segments_of(needs_of(diamond())) is None


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sets(st.integers(0, 4)), min_size=1, max_size=5).map(
        lambda rows: [tuple(sorted(u for u in needs if u < v)) for v, needs in enumerate(rows)]
    )
)
def test_closures_are_all_sets_that_hold_what_they_need(needs: list[tuple[int, ...]]) -> None:
    table = closures_within(needs)
    assert table is not None
    expected = {
        row
        for row in product((False, True), repeat=len(needs))
        if not all(row)
        and all(row[u] for v, sources in enumerate(needs) if row[v] for u in sources)
    }
    assert {tuple(row) for row in table.tolist()} == expected
    assert table.dtype == np.bool_
