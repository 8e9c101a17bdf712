"""The program against brute force on small random graphs."""

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipecut.compiler.partition import place
from pipecut.compiler.partition.problem import Block, Crossing, Problem, Shared, Slot, loads, memory
from pipecut.errors import InfeasibleError


def flights(count: int) -> tuple[int, ...]:
    return tuple(count - stage for stage in range(count))


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    count, stages = draw(st.integers(3, 6)), draw(st.integers(2, 3))
    blocks = tuple(
        Block((v,), {"gpu": float(draw(st.integers(1, 20)))}, draw(st.integers(0, 4)) * 2**20, draw(st.integers(0, 3)) * 2**20)
        for v in range(count)
    )
    crossings = []
    for u in range(count - 1):
        users = tuple(sorted(draw(st.sets(st.integers(u + 1, count - 1), min_size=0, max_size=3))))
        if users:
            size = draw(st.integers(0, 5)) * 2**20
            crossings.append(Crossing(f"t{u}", u, users, size, size))
    edges = frozenset((c.source, v) for c in crossings for v in c.consumers)
    users_of = draw(st.lists(st.sets(st.integers(0, count - 1), min_size=1, max_size=2), max_size=3))
    shared = tuple(Shared(f"p{i}", 2**20 * (i + 1), tuple(sorted(u))) for i, u in enumerate(users_of))
    capacity = draw(st.sampled_from([10, 25, 1000])) * 2**20
    slots = tuple(Slot("gpu", capacity, stages - s, 2.0**20, 0.0) for s in range(stages))
    return Problem(blocks, edges, tuple(crossings), shared, slots, True)


def brute_force(problem: Problem) -> float | None:
    best = None
    for stages in itertools.product(range(len(problem.slots)), repeat=len(problem.blocks)):
        if len(set(stages)) < len(problem.slots) or any(stages[u] > stages[v] for u, v in problem.edges):
            continue
        if all(used <= s.capacity for used, s in zip(memory(problem, list(stages)), problem.slots, strict=True)):
            value = max(loads(problem, list(stages)))
            best = value if best is None else min(best, value)
    return best


@pytest.mark.parametrize("solver", ["highs", "cbc"])
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(problem=problems())
def test_the_program_finds_the_optimum_and_proves_it(solver: str, problem: Problem) -> None:
    expected = brute_force(problem)
    if expected is None:
        with pytest.raises(InfeasibleError):
            place(problem, solver, 20.0, 0.0, flights)
        return
    stages, certificate = place(problem, solver, 20.0, 0.0, flights)
    assert max(loads(problem, stages)) == pytest.approx(expected, rel=1e-6)
    assert certificate.objective == pytest.approx(expected, rel=1e-6)
    assert certificate.bound <= certificate.objective * (1 + 1e-9)
    assert certificate.gap < 1e-5
