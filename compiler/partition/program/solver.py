"""Run a program with HiGHS or CBC; objective and bound from the solver itself."""

import ctypes
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highspy
import pulp

from pipecut.compiler.partition.program.program import Program
from pipecut.errors import UserFileError


@dataclass(frozen=True)
class Solution:
    """`stages` is None when nothing was found. Objective and bound in seconds; `infeasible` only when proven."""

    stages: list[int] | None
    objective: float
    bound: float
    infeasible: bool
    seconds: float
    name: str


def solve(
    program: Program,
    blocks: int,
    stages: int,
    start: dict[str, float] | None,
    solver: str,
    time_limit: float,
    gap: float,
) -> Solution:
    """`gap` is the relative gap at which to stop."""
    begin = time.perf_counter()
    run = _cbc if solver == "cbc" else _highs
    found, objective, bound, infeasible, name = run(program, start, time_limit, gap)
    result = None
    if found:
        result = []
        for v in range(blocks):
            result.append(
                next(
                    s
                    for s in range(stages)
                    if s == stages - 1 or (program.y[v, s].value() or 0.0) > 0.5
                )
            )
    return Solution(
        result,
        objective * program.scale,
        bound * program.scale,
        infeasible,
        time.perf_counter() - begin,
        name,
    )


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """HiGHS prints its banner from C++ when it is made, before it can be told to be silent."""
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
    """A small linear program with HiGHS; its values and status are then the model's."""
    with quiet_stdout():
        model.solve(pulp.HiGHS(msg=False))


def solve_bounded(model: Any, limit: float) -> float:
    """The lower bound that HiGHS proves on a model's least objective in `limit` seconds; zero where it has none."""
    frontend = pulp.HiGHS(msg=False, timeLimit=limit)
    model.solver = frontend
    with quiet_stdout():
        frontend.createAndConfigureSolver(model)
    frontend.buildSolverModel(model)
    highs: Any = model.solverModel
    highs.run()
    if highs.getModelStatus() not in (
        highspy.HighsModelStatus.kOptimal,
        highspy.HighsModelStatus.kTimeLimit,
    ):
        return 0.0
    info = highs.getInfo()
    bound = float(
        info.mip_dual_bound if highs.getLp().integrality_ else info.objective_function_value
    )
    return bound if abs(bound) < 1e29 else 0.0


def _highs(
    program: Program, start: dict[str, float] | None, limit: float, gap: float
) -> tuple[bool, float, float, bool, str]:
    # PuLP 3's HiGHS class has no warm start: it builds the model, and the solution is handed to highspy.
    frontend = pulp.HiGHS(msg=False, timeLimit=limit, gapRel=gap)
    program.model.solver = frontend
    with quiet_stdout():
        frontend.createAndConfigureSolver(program.model)
    frontend.buildSolverModel(program.model)
    highs: Any = program.model.solverModel
    variables = _columns(program.model)
    if start is not None:
        solution = highspy.HighsSolution()
        solution.col_value = [start.get(variable.name, 0.0) for variable in variables]
        highs.setSolution(solution)
    highs.run()
    status, info = highs.getModelStatus(), highs.getInfo()
    infeasible = status == highspy.HighsModelStatus.kInfeasible
    values = list(highs.getSolution().col_value)
    found = not infeasible and info.primal_solution_status == 2 and bool(values)
    if found:
        for variable, value in zip(variables, values, strict=True):
            variable.varValue = value
    bound = max(0.0, info.mip_dual_bound) if abs(info.mip_dual_bound) < 1e29 else 0.0
    version = f"HiGHS {highs.version()}"
    return found, float(info.objective_function_value), bound, infeasible, version


def _cbc(
    program: Program, start: dict[str, float] | None, limit: float, gap: float
) -> tuple[bool, float, float, bool, str]:
    if start is not None:
        for variable in program.model.variables():
            variable.setInitialValue(start.get(variable.name, 0.0))
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "cbc.log"
        command = _cbc_command(
            timeLimit=limit, gapRel=gap, warmStart=start is not None, logPath=str(log)
        )
        found, infeasible = _outcome(program.model, program.model.solve(command))
        text = log.read_text(errors="replace") if log.exists() else ""
    # PuLP 3 calls a solve that ran out of time Optimal, so the bound is read from CBC's own log.
    match = re.search(r"Lower bound:\s+([-\d.e+]+)", text)
    bound, objective = 0.0, float(pulp.value(program.model.objective) or 0.0) if found else 0.0
    if match:
        bound = float(match.group(1))
    elif found and "Optimal solution found" in text:
        bound = objective * (1 - gap)
    return found, objective, bound, infeasible, "CBC"


def _cbc_command(**options: Any) -> Any:
    """CBC: PuLP 3 brings its binary along, PuLP 4 takes it from cbcbox or the PATH. Raises UserFileError without one."""
    bundled = getattr(pulp, "PULP_CBC_CMD", None)
    path = bundled.pulp_cbc_path if bundled is not None else None
    command = pulp.COIN_CMD(path=path, msg=False, keepFiles=False, **options)
    if not command.available():
        raise UserFileError(
            "--solver cbc: no CBC here; pip install 'pulp[cbc]', or use --solver highs"
        )
    return command


def _outcome(model: Any, solved: Any) -> tuple[bool, bool]:
    """Whether a solve handed back a solution, and whether it proved that there is none."""
    if hasattr(solved, "has_solution"):
        return bool(solved.has_solution), solved.status == pulp.LpSolveStatus.Infeasible
    status = model.sol_status
    found = status in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible)
    return found, status == pulp.LpSolutionInfeasible


def _columns(model: Any) -> list[Any]:
    """A model's variables in the order of the solver's columns: those that a row or the objective has."""
    exported = getattr(model, "exported_variables", model.variables)
    return list(exported())
