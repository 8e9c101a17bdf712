"""The cut of one order against all cuts of it."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings

from pipecut.compiler.partition.chain.chain import chain_cuts
from pipecut.compiler.partition.load import loads
from pipecut.compiler.partition.memory import fits
from pipecut.compiler.partition.problem import Problem
from pipecut.compiler.partition.program.memory_rows import everything_fits
from tests.compiler.partition.problems import block, chain, device, problems


def test_work_is_cut_evenly() -> None:
    assert chain_cuts(chain([3.0, 3.0, 5.0, 4.0, 2.0], 3)) == [0, 0, 1, 2, 2]


def test_the_cut_avoids_a_dear_tensor() -> None:
    assert chain_cuts(chain([2.0, 2.0, 2.0, 2.0], 2, [0.0, 9.0, 1.0])) == [0, 1, 1, 1]


def test_memory_moves_the_cut() -> None:
    blocks = block(1.0, saved=5), block(1.0, saved=5), block(9.0, saved=1)
    problem = replace(chain([1.0] * 3, 2), blocks=blocks)
    assert chain_cuts(problem) == [0, 0, 1]
    tight = replace(problem, stage_devices=(device(9), device(9)))
    assert chain_cuts(tight) == [0, 1, 1]


def test_too_few_blocks_or_bytes_make_no_chain() -> None:
    assert chain_cuts(chain([1.0], 2)) is None
    blocks = block(1.0, saved=10), block(1.0)
    assert chain_cuts(replace(chain([1.0] * 2, 2, capacity=9), blocks=blocks)) is None


def test_a_stage_recomputes_where_it_does_not_fit_otherwise() -> None:
    blocks = tuple(block(4.0, saved=4, forward=1.0) for _ in range(4))
    problem = replace(chain([4.0] * 4, 2), blocks=blocks, stage_devices=(device(9, 2), device(9)))
    assert chain_cuts(problem) == [0, 1, 1, 1] or chain_cuts(problem) is None
    assert chain_cuts(replace(problem, recompute="auto")) == [0, 0, 1, 1]


def is_exact(problem: Problem) -> bool:
    """Whether the chain is exact, and not only on the safe side.

    Direct transfers are taken to hold all that crosses their start, and a start among exceptions
    the largest transient around: exact where neither can be, or where every stage would hold
    everything. What stages compute for themselves costs each of them seconds, which the chain
    counts as the longest of its windows does.
    """
    if any(any(shared.seconds.values()) for shared in problem.shared):
        return False
    if problem.comm == "relay" and not any(row.transient_bytes for row in problem.blocks):
        return True
    stages = range(len(problem.stage_devices))
    return all(everything_fits(problem, [stage]) for stage in stages)


@settings(max_examples=60, deadline=None)
@given(
    problem=problems()
    | problems(constraints=True)
    | problems(recompute=True)
    | problems(comm="direct")
)
def test_a_chain_is_the_best_of_its_order(problem: Problem) -> None:
    count, stages = len(problem.blocks), len(problem.stage_devices)
    cut = chain_cuts(problem)
    chains = [
        [sum(v >= first for first in firsts) for v in range(count)]
        for firsts in itertools.combinations(range(1, count), stages - 1)
    ]
    fitting = [stages_ for stages_ in chains if fits(problem, stages_)]
    if cut is None:
        assert not fitting or not is_exact(problem)
        return
    # What a backward operator sends to an earlier stage is not among the bytes a window counts.
    assert cut in (fitting if problem.comm == "relay" else chains)
    if is_exact(problem):
        least = min(max(loads(problem, stages_)) for stages_ in fitting)
        assert max(loads(problem, cut)) == pytest.approx(least)
