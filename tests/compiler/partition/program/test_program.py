"""The integer program's rows hold for what they describe, and for nothing else."""

from dataclasses import replace

import pulp
import pytest
from hypothesis import HealthCheck, given, settings

from pipecut.compiler.partition.load import bottleneck
from pipecut.compiler.partition.problem import Problem, SharedParameter, Stages
from pipecut.compiler.partition.program.memory_rows import everything_fits, most_saved
from pipecut.compiler.partition.program.program import build
from pipecut.compiler.partition.program.solver import Limits, solve, solve_bounded, solve_quietly
from pipecut.compiler.partition.program.start import start_values
from pipecut.compiler.partition.program.variables import Program
from pipecut.errors import UserFileError
from tests.compiler.partition.problems import block, chain, device, placements, problems, tensor

LIMITS = Limits("highs", 10.0, 0.0)


def values_of(problem: Problem, stages: Stages, balance: bool = False) -> Program:
    """The program with its variables set to a placement."""
    program = build(problem, balance=balance)
    start = start_values(problem, program, stages)
    for variable in program.model.variables():
        variable.varValue = start[variable.name]
    return program


def obeys(program: Program) -> bool:
    """Whether the values are a solution."""
    return bool(program.model.valid(1e-6))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    problem=problems(constraints=True)
    | problems(comm="direct")
    | problems(recompute=True)
    | problems(several=True)
)
def test_every_placement_that_fits_is_a_solution_of_its_own_bottleneck(problem: Problem) -> None:
    for stages, _ in zip(placements(problem), range(5), strict=False):
        program = values_of(problem, stages)
        assert obeys(program)
        seconds = program.bottleneck.value() * program.scale
        assert seconds == pytest.approx(bottleneck(problem, stages))


def test_order_pins_and_splits_are_rows() -> None:
    problem = chain([1.0] * 3, 2)
    assert obeys(values_of(problem, [0, 0, 1]))
    assert not obeys(values_of(problem, [1, 0, 1]))
    assert not obeys(values_of(replace(problem, pins=((1, 1),)), [0, 0, 1]))
    assert not obeys(values_of(replace(problem, splits=((0, 1),)), [0, 0, 1]))


def test_no_stage_is_empty_where_tensors_are_relayed() -> None:
    problem = chain([1.0] * 3, 2)
    assert not obeys(values_of(problem, [0, 0, 0]))
    assert obeys(values_of(replace(problem, comm="direct"), [0, 0, 0]))


def test_memory_is_a_row_where_it_can_bind() -> None:
    blocks = block(1.0, saved=3 * 2**20), block(1.0, saved=4 * 2**20)
    problem = replace(chain([1.0] * 2, 1, capacity=7 * 2**20), blocks=blocks)
    assert everything_fits(problem, [0]) and obeys(values_of(problem, [0, 0]))
    tight = replace(problem, stage_devices=(device(6 * 2**20),))
    assert not everything_fits(tight, [0]) and not obeys(values_of(tight, [0, 0]))


def test_a_device_that_recomputes_saves_one_microbatch_and_takes_its_forward_seconds() -> None:
    blocks = tuple(block(4.0, saved=2**20, forward=1.0) for _ in range(2))
    devices = (device(3 * 2**20, in_flight=2),)
    problem = replace(chain([4.0] * 2, 1), blocks=blocks, stage_devices=devices, recompute="auto")
    program = values_of(problem, [0, 0])
    assert obeys(program) and program.recompute[0].chosen.value() == 1.0
    assert program.recompute[0].seconds.value() * program.scale == pytest.approx(2.0)


def test_what_is_shared_is_hosted_where_a_user_is() -> None:
    shared = SharedParameter("tied", 2**20, (0, 2)), SharedParameter("one", 2**20, (1,))
    problem = replace(chain([1.0] * 3, 2), shared=shared)
    program = values_of(problem, [0, 0, 1])
    hosted = [[pulp.value(program.has_user(problem, p, s)) for s in (0, 1)] for p in (0, 1)]
    assert hosted == [[1.0, 1.0], [1.0, 0.0]]


def test_a_solver_finds_the_stages_and_its_own_bound() -> None:
    problem = chain([3.0, 1.0, 2.0, 5.0], 2)
    solution = solve(problem, build(problem), LIMITS, None)
    assert solution.stages == [0, 0, 0, 1] and not solution.infeasible
    assert (solution.objective, solution.bound) == pytest.approx((6.0, 6.0))


def test_a_start_is_kept_where_nothing_is_better() -> None:
    problem = chain([1.0, 1.0], 2)
    program = build(problem)
    solution = solve(problem, program, LIMITS, start_values(problem, program, [0, 1]))
    assert solution.stages == [0, 1]


@pytest.mark.parametrize("solver", ["highs", "cbc"])
def test_infeasible_is_proven(solver: str) -> None:
    problem = replace(chain([1.0] * 2, 2), pins=((0, 1), (1, 0)))
    solution = solve(problem, build(problem), Limits(solver, 10.0, 0.0), None)
    assert solution.stages is None and solution.infeasible


def test_a_solver_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulp.COIN_CMD, "available", lambda self: False)
    problem = chain([1.0] * 2, 2)
    with pytest.raises(UserFileError, match="--solver cbc: CBC is not installed"):
        solve(problem, build(problem), Limits("cbc", 1.0, 0.0), None)


def test_bounds_of_small_models() -> None:
    model = pulp.LpProblem("least", pulp.LpMinimize)
    x = model.add_variable("x", 0, cat="Integer")
    model += x
    model += 2 * x >= 3
    assert solve_bounded(model, 5.0) == pytest.approx(2.0)
    relaxed = pulp.LpProblem("least", pulp.LpMinimize)
    y = relaxed.add_variable("y", 0)
    relaxed += y
    relaxed += 2 * y >= 3
    solve_quietly(relaxed)
    assert y.value() == pytest.approx(1.5)


def test_the_most_saved_in_some_seconds_is_a_knapsack() -> None:
    blocks = block(1.0, saved=10), block(2.0, saved=10, forward=2.0), block(5.0)
    problem = replace(chain([0.0] * 3, 1), blocks=blocks, stage_devices=(device(in_flight=3),))
    # All but one of three microbatches, each of the first block and half of the second.
    assert most_saved(problem, [0], 3.0) == 2 * (10 + 5)
    assert most_saved(problem, [0], 100.0) == 2 * 20


def test_a_tensor_to_an_earlier_block_crosses_the_other_way() -> None:
    problem = replace(chain([1.0] * 2, 2), tensors=(tensor(1, 0, size=2.0),))
    program = values_of(problem, [0, 1])
    assert obeys(program) and [row.variable.value() for row in program.transfers] == [1.0]
