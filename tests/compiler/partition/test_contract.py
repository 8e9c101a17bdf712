"""Merged blocks weigh what their members do."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from pipecut.compiler.partition.contract import contract, expand, merge_tensors
from pipecut.compiler.partition.load import loads, moved_bytes
from pipecut.compiler.partition.memory import peak_bytes
from pipecut.compiler.partition.problem import Duplicated, Problem, SharedParameter
from tests.compiler.partition.problems import block, chain, problems, tensor


def test_a_merged_block_sums_seconds_and_keeps_the_largest_transient() -> None:
    blocks = block(1.0, 10, 4, 0.5), block(2.0, 20, 6, 0.25), block(3.0)
    problem = replace(chain([0.0] * 3, 2, [5.0, 7.0]), blocks=blocks)
    merged = contract(problem, [[0, 1], [2]])
    assert merged.blocks == (block(3.0, 30, 6, 0.75), block(3.0))
    assert [(row.source, row.consumers) for row in merged.tensors] == [(0, (1,))]
    assert merged.edges == {(0, 1)}


def test_rules_and_what_is_shared_follow_the_groups() -> None:
    problem = replace(
        chain([1.0] * 4, 2),
        shared=(SharedParameter("tied", 1, (0, 1, 3)),),
        pins=((3, 1),),
        splits=((1, 2),),
        duplicated=(Duplicated(9, (0, 1, 3)),),
    )
    merged = contract(problem, [[0, 1], [2, 3]])
    assert merged.shared[0].users == (0, 1) and merged.duplicated == (Duplicated(9, (0, 1)),)
    assert merged.pins == ((1, 1),) and merged.splits == ((0, 1),)


def test_tensors_that_always_cross_together_are_one() -> None:
    first, second = tensor(0, 2, size=3.0, back=1.0), tensor(0, 2, size=4.0)
    apart = tensor(0, 1, 2)
    (both, alone) = merge_tensors((first, second, apart))
    assert (both.forward_bytes, both.backward_bytes, both.messages) == (7.0, 1.0, 3)
    assert alone is apart


def test_a_placement_of_groups_is_one_of_members() -> None:
    assert expand([1, 0], [[0, 3], [1, 2]], 4) == [1, 0, 0, 1]


@settings(max_examples=60, deadline=None)
@given(problem=problems() | problems(comm="direct", recompute=True), stages=st.data())
def test_costs_of_a_placement_stay(problem: Problem, stages: st.DataObject) -> None:
    cut = stages.draw(st.integers(1, len(problem.blocks) - 1))
    members = [list(range(cut)), list(range(cut, len(problem.blocks)))]
    merged, whole = contract(problem, members), expand([0, 1], members, len(problem.blocks))
    assert loads(merged, [0, 1]) == loads(problem, whole)
    assert peak_bytes(merged, [0, 1]) == peak_bytes(problem, whole)
    assert moved_bytes(merged, [0, 1]) == moved_bytes(problem, whole)
