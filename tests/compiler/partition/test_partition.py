"""The program against brute force on small random graphs."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal
from unittest.mock import patch

import networkx as nx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.compiles.generated import layered
from pipecut.compiler.partition.bounds import closures, segments
from pipecut.compiler.partition.bounds.closure_bound import closure_bound
from pipecut.compiler.partition.bounds.memory_bound import memory_bound
from pipecut.compiler.partition.bounds.work_bound import work_bound
from pipecut.compiler.partition.break_ties import break_ties
from pipecut.compiler.partition.chain.chain import chain_cuts
from pipecut.compiler.partition.contract import expand
from pipecut.compiler.partition.load import bottleneck, loads, moved_bytes
from pipecut.compiler.partition.memory import fits, fullest
from pipecut.compiler.partition.place import SolverOptions, place
from pipecut.compiler.partition.problem import (
    Block,
    Problem,
    SharedParameter,
    StageDevice,
    TensorUse,
)
from pipecut.compiler.partition.program.memory_rows import everything_fits
from pipecut.compiler.partition.reduce import lossless, needed_edges
from pipecut.errors import InfeasibleError


def in_flight_per_stage(count: int) -> tuple[int, ...]:
    return tuple(count - stage for stage in range(count))


@st.composite
def problems(
    draw: st.DrawFn,
    comm: Literal["relay", "direct"] = "relay",
    kinds: tuple[str, ...] = ("gpu",),
    constraints: bool = False,
    recompute: bool = False,
    several: bool = False,
) -> Problem:
    count, stages = (
        draw(st.integers(4 if several else 3, 6)),
        4 if several else draw(st.integers(2, 3)),
    )
    blocks = []
    for v in range(count):
        seconds = {kind: float(draw(st.integers(1, 20))) for kind in kinds}
        forward = {
            kind: float(draw(st.integers(0, int(seconds[kind])))) for kind in kinds if recompute
        }
        saved, transient = draw(st.integers(0, 4)) * 2**20, draw(st.integers(0, 3)) * 2**20
        blocks.append(Block((v,), seconds, saved, transient, forward))
    tensors = []
    for u in range(count - 1):
        users = tuple(sorted(draw(st.sets(st.integers(u + 1, count - 1), min_size=0, max_size=3))))
        if users:
            size = draw(st.integers(0, 5)) * 2**20
            tensors.append(TensorUse(f"t{u}", u, users, size, size, 2))
    edges = frozenset((c.source, v) for c in tensors for v in c.consumers)
    users_of = draw(
        st.lists(st.sets(st.integers(0, count - 1), min_size=1, max_size=2), max_size=3)
    )
    shared = tuple(
        SharedParameter(f"p{i}", 2**20 * (i + 1), tuple(sorted(u))) for i, u in enumerate(users_of)
    )
    # What each stage makes for itself; as the parameters, but for its seconds.
    for i, users in enumerate(
        draw(st.lists(st.sets(st.integers(0, count - 1), min_size=1, max_size=3), max_size=2))
    ):
        seconds = {kind: float(draw(st.integers(1, 6))) for kind in kinds}
        forward = {
            kind: float(draw(st.integers(0, int(seconds[kind])))) for kind in kinds if recompute
        }
        shared += (
            SharedParameter(
                f"m{i}", 0, tuple(sorted(users)), seconds, forward, draw(st.integers(0, 2)) * 2**20
            ),
        )
    capacity = draw(st.sampled_from([10, 25, 1000])) * 2**20
    if comm == "direct":
        # As the tensors of backward operators, which go from later blocks to earlier ones.
        for u in range(1, count):
            if draw(st.booleans()):
                tensors.append(
                    TensorUse(
                        f"b{u}",
                        u,
                        (draw(st.integers(0, u - 1)),),
                        draw(st.integers(0, 5)) * 2**20,
                        0,
                        1,
                    )
                )
    stage_devices = tuple(
        StageDevice(kinds[s % len(kinds)], capacity, stages - s, 2.0**20, 0.5)
        for s in range(stages)
    )
    problem = Problem(tuple(blocks), edges, tuple(tensors), shared, stage_devices, comm)
    if recompute:
        problem = replace(problem, recompute=draw(st.sampled_from(["auto", "auto", "always"])))
    if several:
        problem = replace(problem, devices=(0, 1, 0, 1))
    if not constraints:
        return problem
    pins = draw(st.dictionaries(st.integers(0, count - 1), st.integers(0, stages - 1), max_size=2))
    splits = tuple(draw(st.sets(st.sampled_from(sorted(edges)), max_size=2))) if edges else ()
    return replace(problem, pins=tuple(pins.items()), splits=splits)


def placements(problem: Problem) -> Iterator[list[int]]:
    """All that are allowed and fit."""
    for stages in itertools.product(range(len(problem.stage_devices)), repeat=len(problem.blocks)):
        idle = len(set(stages)) < len(problem.stage_devices) and problem.comm == "relay"
        if idle or any(stages[u] > stages[v] for u, v in problem.edges):
            continue
        if fits(problem, list(stages)):
            yield list(stages)


def brute_force(problem: Problem) -> float | None:
    return min((bottleneck(problem, stages) for stages in placements(problem)), default=None)


QUICKLY = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def assert_optimal(problem: Problem, solver: str) -> None:
    expected = brute_force(problem)
    if expected is None:
        with pytest.raises(InfeasibleError):
            place(problem, SolverOptions(solver, 20.0, 0.0), in_flight_per_stage)
        return
    stages, certificate = place(problem, SolverOptions(solver, 20.0, 0.0), in_flight_per_stage)
    assert fits(problem, stages)
    assert bottleneck(problem, stages) == pytest.approx(expected, rel=1e-6)
    assert certificate.objective == pytest.approx(expected, rel=1e-6)
    assert certificate.bound <= certificate.objective * (1 + 1e-9)
    assert certificate.gap < 1e-5


@pytest.mark.parametrize("solver", ["highs", "cbc"])
@QUICKLY
@given(problem=problems())
def test_the_program_finds_the_optimum_and_proves_it(solver: str, problem: Problem) -> None:
    assert_optimal(problem, solver)


@QUICKLY
@given(problem=problems(comm="direct"))
def test_direct_transfers_are_optimal_too(problem: Problem) -> None:
    assert_optimal(problem, "highs")


@QUICKLY
@given(problem=problems(kinds=("fast", "slow")))
def test_unequal_devices_are_optimal_too(problem: Problem) -> None:
    assert_optimal(problem, "highs")


@QUICKLY
@given(problem=problems(recompute=True) | problems(kinds=("fast", "slow"), recompute=True))
def test_who_recomputes_is_optimal_too(problem: Problem) -> None:
    assert_optimal(problem, "highs")


@QUICKLY
@given(problem=problems(comm="direct", several=True) | problems(several=True))
def test_several_stages_on_a_device_are_optimal_too(problem: Problem) -> None:
    assert_optimal(problem, "highs")


@QUICKLY
@given(problem=problems(constraints=True) | problems(comm="direct", constraints=True))
def test_what_the_user_tells_is_obeyed_at_the_least_cost(problem: Problem) -> None:
    assert_optimal(problem, "highs")


@QUICKLY
@given(problem=problems() | problems(comm="direct"))
def test_ties_go_to_the_fewest_bytes_then_to_even_memory(problem: Problem) -> None:
    def order(stages: list[int]) -> tuple[float, float, float]:
        exact = bottleneck(problem, stages), moved_bytes(problem, stages), fullest(problem, stages)
        return round(exact[0], 6), round(exact[1]), round(exact[2], 6)

    best = min((order(stages) for stages in placements(problem)), default=None)
    if best is not None:
        assert (
            order(place(problem, SolverOptions("highs", 20.0, 0.0), in_flight_per_stage)[0]) == best
        )


def test_a_large_chain_is_cut_again_where_fewest_bytes_cross() -> None:
    problem = layered(990, 16)
    stages = chain_cuts(problem)
    assert stages is not None
    settled = break_ties(problem, stages, "highs")
    assert bottleneck(problem, settled) <= bottleneck(problem, stages) * (1 + 1e-9)
    assert moved_bytes(problem, settled) < moved_bytes(problem, stages)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
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


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
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


@settings(max_examples=100, deadline=None)
@given(
    problem=problems()
    | problems(constraints=True)
    | problems(recompute=True)
    | problems(comm="direct")
)
def test_a_chain_is_the_best_of_its_order(problem: Problem) -> None:
    count, stages = len(problem.blocks), len(problem.stage_devices)
    found = chain_cuts(problem)
    chains = [
        [sum(v >= cut for cut in cuts) for v in range(count)]
        for cuts in itertools.combinations(range(1, count), stages - 1)
    ]
    fitting = [chain for chain in chains if fits(problem, chain)]
    # Direct transfers are taken to hold all that crosses their start, and a start among exceptions the largest transient around:
    # exact where neither can be, or where every stage would hold everything.
    exact = problem.comm == "relay" and not any(block.transient_bytes for block in problem.blocks)
    exact = exact or all(everything_fits(problem, [stage]) for stage in range(stages))
    # What stages make for themselves costs each of them seconds, which the chain counts as the longest of its windows do.
    exact = exact and not any(any(shared.seconds.values()) for shared in problem.shared)
    if found is None:
        assert not fitting or not exact
        return
    # What a backward operator sends to an earlier stage is not among the bytes a window counts.
    assert found in (fitting if problem.comm == "relay" else chains)
    if exact:
        assert max(loads(problem, found)) == pytest.approx(
            min(max(loads(problem, chain)) for chain in fitting)
        )


@settings(max_examples=100, deadline=None)
@given(problem=problems(comm="direct"))
def test_lossless_merges_keep_the_optimum(problem: Problem) -> None:
    roomy = replace(
        problem,
        stage_devices=(replace(problem.stage_devices[0], capacity=2**40),)
        * len(problem.stage_devices),
    )
    small, members = lossless(roomy)
    best = brute_force(small)
    assert best is not None and best == pytest.approx(brute_force(roomy))
    assert sorted(v for group in members for v in group) == list(range(len(problem.blocks)))
    assert expand([0] * len(members), members, len(problem.blocks)) == [0] * len(problem.blocks)


@settings(max_examples=100, deadline=None)
@given(
    st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda edge: edge[0] < edge[1]))
)
def test_needed_edges_are_the_transitive_reduction(edges: set[tuple[int, int]]) -> None:
    graph: nx.DiGraph[int] = nx.DiGraph(sorted(edges))
    assert needed_edges(edges, 10) == set(nx.transitive_reduction(graph).edges)
