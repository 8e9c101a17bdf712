"""Placements against brute force on small random problems."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from pipecut.compiler.partition.load import bottleneck
from pipecut.compiler.partition.memory import fits
from pipecut.compiler.partition.place import SolverOptions, branch_chains, chains, place
from pipecut.compiler.partition.problem import Problem
from pipecut.errors import InfeasibleError, UserFileError
from tests.compiler.partition.problems import (
    brute_force,
    chain,
    in_flight_per_stage,
    problems,
)

QUICKLY = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


def assert_optimal(problem: Problem, solver: str) -> None:
    expected = brute_force(problem)
    options = SolverOptions(solver, 20.0, 0.0)
    if expected is None:
        with pytest.raises(InfeasibleError):
            place(problem, options, in_flight_per_stage)
        return
    stages, certificate = place(problem, options, in_flight_per_stage)
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
def test_constraints_are_obeyed_at_the_least_cost(problem: Problem) -> None:
    assert_optimal(problem, "highs")


def test_a_rule_is_obeyed_where_it_fits() -> None:
    def halves(problem: Problem) -> list[int]:
        return [0, 0, 1, 1]

    stages, certificate = place(
        chain([1.0, 2.0, 3.0, 4.0], 2), SolverOptions(rule=halves), in_flight_per_stage
    )
    assert stages == [0, 0, 1, 1] and certificate.objective == 7.0
    assert certificate.solver == "halves" and not certificate.proven


def test_a_rule_that_does_not_fit_is_refused() -> None:
    def all_on_one(problem: Problem) -> list[int]:
        return [0] * len(problem.blocks)

    tight = chain([1.0, 1.0], 2, [5.0], capacity=0)
    with pytest.raises(InfeasibleError, match="all on one: what it puts on some device"):
        place(with_saved_bytes(tight), SolverOptions(rule=all_on_one), in_flight_per_stage)


def with_saved_bytes(problem: Problem) -> Problem:
    blocks = tuple(replace(block, saved_bytes=1) for block in problem.blocks)
    return replace(problem, blocks=blocks)


def test_an_even_chain_is_proven_without_a_program() -> None:
    stages, certificate = place(chain([1.0] * 8, 4), SolverOptions(), in_flight_per_stage)
    assert stages == [0, 0, 1, 1, 2, 2, 3, 3]
    assert certificate.proven and certificate.solver == "chain over a topological order"


def test_branches_give_another_order_only_where_there_are_some() -> None:
    straight = chain([1.0] * 4, 2)
    assert chains(straight) == [[0, 0, 1, 1]] and branch_chains(straight) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"solver": "x"}, "solver 'x': must be highs or cbc"),
        ({"time_limit": -1.0}, "time_limit -1.0: must be a number of 0 or more"),
        ({"gap": "none"}, "gap 'none': must be a number"),
        ({"gap": float("nan")}, "gap nan: must be a number"),
    ],
)
def test_options_that_are_none_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserFileError, match=message):
        SolverOptions(**wrong)
