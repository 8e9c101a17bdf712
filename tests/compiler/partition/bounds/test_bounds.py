"""No bound is above the optimum of brute force; each is what can be counted by hand."""

from dataclasses import replace
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.compiles.generated import layered
from pipecut.compiler.partition.bounds import closures, segments
from pipecut.compiler.partition.bounds.closure_bound import closure_bound
from pipecut.compiler.partition.bounds.memory_bound import memory_bound
from pipecut.compiler.partition.bounds.work_bound import work_bound
from pipecut.compiler.partition.chain.chain import chain_cuts
from pipecut.compiler.partition.load import bottleneck
from pipecut.compiler.partition.problem import Block, Problem, SharedParameter, StageDevice
from tests.compiler.partition.problems import block, brute_force, chain, device, problems


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    problem=problems()
    | problems(comm="direct")
    | problems(kinds=("fast", "slow"))
    | problems(recompute=True)
)
def test_no_bound_is_above_the_optimum(problem: Problem) -> None:
    expected = brute_force(problem)
    if expected is not None:
        bounds = [
            work_bound(problem),
            memory_bound(problem),
            memory_bound(problem, expected),
            closure_bound(problem, 0.0, expected),
        ]
        assert max(bounds) <= expected * (1 + 1e-9)
        assert closure_bound(problem, 0.0, 4 * expected) <= expected * (1 + 1e-9)
        assert closure_bound(problem, 0.0, float("inf")) == 0.0


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    problem=problems() | problems(kinds=("fast", "slow")) | problems(recompute=True),
    beside=st.integers(0, 3),
)
def test_no_bound_with_loose_blocks_is_above_the_optimum(problem: Problem, beside: int) -> None:
    expected = brute_force(problem)
    with patch.object(segments, "BESIDE", beside), patch.object(closures, "MOST_LOOSE", 1.0):
        if expected is None:
            return
        assert closure_bound(problem, 0.0, 2 * expected) <= expected * (1 + 1e-9)
        assert closure_bound(problem, 0.0, float("inf")) == 0.0


def test_few_closures_prove_a_large_chain_all_but_optimal() -> None:
    problem = layered(990, 64)
    stages = chain_cuts(problem)
    assert stages is not None
    least = bottleneck(problem, stages)
    assert closure_bound(problem, work_bound(problem), least) > 0.999 * least


def test_work_is_at_best_even_and_no_block_is_divided() -> None:
    assert work_bound(chain([1.0, 2.0, 3.0], 2)) == 3.0
    assert work_bound(chain([1.0, 5.0, 1.0], 2)) == 5.0
    mask = SharedParameter("mask", 0, (0, 1), {"gpu": 2.0})
    assert work_bound(replace(chain([1.0, 2.0, 3.0], 2), shared=(mask,))) == 4.0


def test_unequal_devices_share_work_by_their_speed() -> None:
    blocks = tuple(Block((v,), {"fast": 1.0, "slow": 3.0}, 0, 0) for v in range(8))
    devices = StageDevice("fast", 10, 1, 1.0, 0.0), StageDevice("slow", 10, 1, 1.0, 0.0)
    problem = Problem(blocks, frozenset(), (), (), devices)
    # 6 blocks on the fast device and 2 on the slow one take 6 seconds each.
    assert work_bound(problem) == pytest.approx(6.0)


def test_no_closure_reaches_less_than_the_best_chain() -> None:
    problem = chain([3.0, 1.0, 2.0, 4.0, 2.0], 3, [0.5] * 4)
    stages = chain_cuts(problem)
    assert stages is not None
    least = bottleneck(problem, stages)
    assert closure_bound(problem, 0.0, least) == pytest.approx(least, rel=1e-5)


def test_nothing_that_fits_is_an_infinite_bound() -> None:
    blocks = block(1.0, saved=10), block(1.0)
    problem = replace(chain([1.0] * 2, 2, capacity=9), blocks=blocks)
    assert closure_bound(problem, 0.0, float("inf")) == float("inf")


def test_memory_that_holds_half_the_work_divides_it() -> None:
    # The first device has room for one of four blocks: three are left for the second.
    blocks = tuple(block(1.0, saved=10) for _ in range(4))
    problem = replace(chain([1.0] * 4, 2), blocks=blocks, stage_devices=(device(10), device(100)))
    assert memory_bound(problem) == pytest.approx(3.0, rel=1e-4)
    assert work_bound(problem) == 2.0


def test_there_is_no_memory_bound_for_several_stages_on_a_device() -> None:
    assert memory_bound(replace(chain([1.0] * 4, 2), devices=(0, 0))) == 0.0
