"""Run a program with HiGHS or CBC; objective and bound from the solver itself."""

import ctypes
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highspy
import pulp

from pipecut.compiler.partition.problem import Problem, Stages
from pipecut.compiler.partition.program.variables import Program
from pipecut.errors import UserFileError

# Solvers return this or more for a bound that they do not have.
INFINITE = 1e29


@dataclass(frozen=True)
class Limits:
    """The solver, the seconds it may take, and the relative gap at which it may stop."""

    solver: str
    seconds: float
    gap: float


@dataclass(frozen=True)
class Solution:
    """`stages` is None when there is none. Objective and bound in seconds.

    `infeasible` only when that is proven.
    """

    stages: Stages | None
    objective: float
    bound: float
    infeasible: bool
    seconds: float
    solver: str


@dataclass(frozen=True)
class _Outcome:
    """What a solver says in the model's own unit; with a solution, its variables have values."""

    has_solution: bool
    objective: float
    bound: float
    infeasible: bool
    solver: str


def solve(
    problem: Problem, program: Program, limits: Limits, start: dict[str, float] | None
) -> Solution:
    """The best placement from `start`, values by variable name, within the limits."""
    begin = time.perf_counter()
    outcome = SOLVERS[limits.solver](program.model, limits, start)
    return Solution(
        program.stages(problem) if outcome.has_solution else None,
        outcome.objective * program.scale,
        outcome.bound * program.scale,
        outcome.infeasible,
        time.perf_counter() - begin,
        outcome.solver,
    )


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """HiGHS prints its banner from C++ when it is made, before it can be asked to be silent."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        # Into a pipe the banner is still in the C library's buffer.
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def solve_quietly(model: Any) -> None:
    """Solve a small linear program with HiGHS; its values and status are then the model's."""
    with quiet_stdout():
        model.solve(pulp.HiGHS(msg=False))


def solve_bounded(model: Any, seconds: float) -> float:
    """The lower bound on a model's least objective that HiGHS proves in some seconds; else zero."""
    highs = _highs_of(model, timeLimit=seconds)
    highs.run()
    if highs.getModelStatus() not in (
        highspy.HighsModelStatus.kOptimal,
        highspy.HighsModelStatus.kTimeLimit,
    ):
        return 0.0
    info = highs.getInfo()
    is_integer = bool(highs.getLp().integrality_)
    bound = float(info.mip_dual_bound if is_integer else info.objective_function_value)
    return bound if abs(bound) < INFINITE else 0.0


def _highs_of(model: Any, **options: Any) -> Any:
    """The model in HiGHS, not yet run.

    PuLP 3's HiGHS class has no warm start: it builds the model, and what follows is highspy's.
    """
    frontend = pulp.HiGHS(msg=False, **options)
    model.solver = frontend
    with quiet_stdout():
        frontend.createAndConfigureSolver(model)
    frontend.buildSolverModel(model)
    return model.solverModel


def _highs(model: Any, limits: Limits, start: dict[str, float] | None) -> _Outcome:
    highs = _highs_of(model, timeLimit=limits.seconds, gapRel=limits.gap)
    variables = _columns(model)
    if start is not None:
        solution = highspy.HighsSolution()
        solution.col_value = [start.get(variable.name, 0.0) for variable in variables]
        highs.setSolution(solution)
    highs.run()
    status, info = highs.getModelStatus(), highs.getInfo()
    infeasible = status == highspy.HighsModelStatus.kInfeasible
    values = list(highs.getSolution().col_value)
    # 2 is HiGHS's kSolutionStatusFeasible.
    has_solution = not infeasible and info.primal_solution_status == 2 and bool(values)
    if has_solution:
        for variable, value in zip(variables, values, strict=True):
            variable.varValue = value
    bound = max(0.0, info.mip_dual_bound) if abs(info.mip_dual_bound) < INFINITE else 0.0
    objective = float(info.objective_function_value)
    return _Outcome(has_solution, objective, bound, infeasible, f"HiGHS {highs.version()}")


def _cbc(model: Any, limits: Limits, start: dict[str, float] | None) -> _Outcome:
    if start is not None:
        for variable in model.variables():
            variable.setInitialValue(start.get(variable.name, 0.0))
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "cbc.log"
        command = _cbc_command(
            timeLimit=limits.seconds,
            gapRel=limits.gap,
            warmStart=start is not None,
            logPath=str(log),
        )
        solved = model.solve(command)
        text = log.read_text(errors="replace") if log.exists() else ""
    has_solution, infeasible = _has_solution(model, solved), _is_infeasible(model, solved)
    objective = float(pulp.value(model.objective) or 0.0) if has_solution else 0.0
    bound = _cbc_bound(text, objective, limits.gap) if has_solution else _logged_bound(text) or 0.0
    return _Outcome(has_solution, objective, bound, infeasible, "CBC")


def _cbc_bound(log: str, objective: float, gap: float) -> float:
    """The bound that CBC's log has.

    PuLP 3 calls a solve that ran out of time Optimal, so its status does not say.
    """
    logged = _logged_bound(log)
    if logged is not None:
        return logged
    return objective * (1 - gap) if "Optimal solution found" in log else 0.0


def _logged_bound(log: str) -> float | None:
    match = re.search(r"Lower bound:\s+([-\d.e+]+)", log)
    return float(match.group(1)) if match else None


def _cbc_command(**options: Any) -> Any:
    """CBC as PuLP runs it. Raises UserFileError where it is not installed.

    PuLP 3 brings its binary along, PuLP 4 takes it from cbcbox or the PATH.
    """
    bundled = getattr(pulp, "PULP_CBC_CMD", None)
    path = bundled.pulp_cbc_path if bundled is not None else None
    command = pulp.COIN_CMD(path=path, msg=False, keepFiles=False, **options)
    if not command.available():
        raise UserFileError(
            "--solver cbc: CBC is not installed; pip install 'pulp[cbc]', or use --solver highs"
        )
    return command


def _has_solution(model: Any, solved: Any) -> bool:
    """Whether a solve returned a solution; `solved` is a status in PuLP 4, a number in PuLP 3."""
    if hasattr(solved, "has_solution"):
        return bool(solved.has_solution)
    return model.sol_status in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible)


def _is_infeasible(model: Any, solved: Any) -> bool:
    """Whether a solve proved that there is no solution."""
    if hasattr(solved, "has_solution"):
        return bool(solved.status == pulp.LpSolveStatus.Infeasible)
    return bool(model.sol_status == pulp.LpSolutionInfeasible)


def _columns(model: Any) -> list[Any]:
    """The variables that a row or the objective has, in the order of the solver's columns."""
    exported = getattr(model, "exported_variables", model.variables)
    return list(exported())


# Solvers by the name that --solver has; each takes a model, limits and values to start from.
SOLVERS: dict[str, Callable[[Any, Limits, dict[str, float] | None], _Outcome]] = {
    "highs": _highs,
    "cbc": _cbc,
}
