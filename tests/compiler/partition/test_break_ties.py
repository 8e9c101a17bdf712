"""Ties go to the fewest bytes, then to even memory."""

from dataclasses import replace

from hypothesis import HealthCheck, given, settings

from benchmarks.compiles.generated import layered
from pipecut.compiler.partition.break_ties import break_ties
from pipecut.compiler.partition.chain.chain import chain_cuts
from pipecut.compiler.partition.load import bottleneck, moved_bytes
from pipecut.compiler.partition.memory import fullest
from pipecut.compiler.partition.place import SolverOptions, place
from pipecut.compiler.partition.problem import Problem, SharedParameter
from tests.compiler.partition.problems import chain, in_flight_per_stage, placements, problems


def test_the_cut_moves_to_the_smaller_tensor() -> None:
    # Cuts after blocks 1 and 2 both leave 5 seconds on a stage; 2 bytes cross the second.
    problem = chain([2.0, 2.0, 1.0, 4.0], 2)
    sizes = (3.0, 3.0, 2.0)
    tensors = tuple(
        replace(row, forward_bytes=0.0, messages=0, backward_bytes=size)
        for row, size in zip(problem.tensors, sizes, strict=True)
    )
    fast = tuple(replace(row, bandwidth=1e12) for row in problem.stage_devices)
    problem = replace(problem, tensors=tensors, stage_devices=fast)
    assert break_ties(problem, [0, 0, 1, 1], "highs") == [0, 0, 0, 1]


def test_parameters_are_spread_where_bytes_are_equal() -> None:
    problem = chain([2.0, 0.0, 2.0], 2, capacity=100)
    shared = tuple(SharedParameter(f"p{v}", size, (v,)) for v, size in enumerate((50, 20, 10)))
    problem = replace(problem, shared=shared)
    assert break_ties(problem, [0, 0, 1], "highs") == [0, 1, 1]


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(problem=problems() | problems(comm="direct"))
def test_ties_go_to_the_fewest_bytes_then_to_even_memory(problem: Problem) -> None:
    def order(stages: list[int]) -> tuple[float, float, float]:
        exact = bottleneck(problem, stages), moved_bytes(problem, stages), fullest(problem, stages)
        return round(exact[0], 6), round(exact[1]), round(exact[2], 6)

    best = min((order(stages) for stages in placements(problem)), default=None)
    if best is not None:
        options = SolverOptions("highs", 20.0, 0.0)
        assert order(place(problem, options, in_flight_per_stage)[0]) == best


def test_a_large_chain_is_cut_again_where_fewest_bytes_cross() -> None:
    problem = layered(990, 16)
    stages = chain_cuts(problem)
    assert stages is not None
    cut = break_ties(problem, stages, "highs")
    assert bottleneck(problem, cut) <= bottleneck(problem, stages) * (1 + 1e-9)
    assert moved_bytes(problem, cut) < moved_bytes(problem, stages)
