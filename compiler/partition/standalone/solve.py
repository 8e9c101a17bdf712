"""What `pipecut solve` says of a costed graph."""

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipecut.compiler.inputs.units import parse_bytes, show_bytes
from pipecut.compiler.partition.load import loads
from pipecut.compiler.partition.memory import peak_bytes
from pipecut.compiler.partition.place import SolverOptions, place
from pipecut.compiler.partition.problem import Comm
from pipecut.compiler.partition.standalone.read import read_problem
from pipecut.errors import InfeasibleError, UserFileError


def solve_file(
    path: Path,
    devices: int | None,
    capacity: str | None,
    comm: Comm | None,
    solver: str,
    time_limit: float,
    gap: float,
    each: int = 1,
) -> dict[str, Any]:
    """Solve and report: objective, bound, gap, proven, seconds, stages (ids), loads, bytes, solver, status.

    With `each` stages a device, `devices` has the device of each stage, and the objective is the slowest device's load.
    Objective, bound and loads are in the file's unit of time. `status` is optimal, feasible (not proven) or infeasible.
    Raises UserFileError.
    """
    begin = time.perf_counter()
    problem, ids = read_problem(path, devices, _bytes(capacity), comm, each)
    nothing = {"objective": None, "bound": None, "gap": None, "proven": False}
    try:
        stages, c = place(
            problem,
            SolverOptions(solver, time_limit, gap),
            lambda count: (problem.stage_devices[0].in_flight,) * count,
        )
    except InfeasibleError as error:
        spent = time.perf_counter() - begin
        return {
            **nothing,
            "seconds": spent,
            "stages": [],
            "loads": [],
            "solver": solver,
            "status": "infeasible",
            "why": str(error),
        }
    members: list[list[Any]] = [[] for _ in problem.stage_devices]
    for block, stage in zip(problem.blocks, stages, strict=True):
        members[stage] += [ids[index] for index in block.operators]
    return {
        "objective": c.objective,
        "bound": c.bound,
        "gap": c.gap,
        "proven": c.proven,
        "seconds": time.perf_counter() - begin,
        "stages": members,
        "loads": loads(problem, stages),
        "bytes": peak_bytes(problem, stages),
        **({"devices": list(problem.devices)} if problem.devices else {}),
        "solver": c.solver,
        "status": "optimal" if c.proven else "feasible",
    }


def _bytes(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(text) if text.isdigit() else parse_bytes(text)
    except ValueError as error:
        raise UserFileError(f"--memory: {error}") from None


def print_solved(solved: dict[str, Any], as_json: bool, console: Console) -> None:
    """One JSON object, or a table for people."""
    if as_json:
        print(json.dumps(solved))
        return
    if solved["status"] == "infeasible":
        console.print(solved["why"])
        return
    table = Table("stage", "device", "nodes", "load", "memory")
    devices = solved.get("devices", range(len(solved["stages"])))
    for stage, row in enumerate(
        zip(devices, solved["stages"], solved["loads"], solved["bytes"], strict=True)
    ):
        device, nodes, load, used = row
        table.add_row(str(stage), str(device), str(len(nodes)), f"{load:.6g}", show_bytes(used))
    console.print(table)
    verdict = (
        "proven optimal" if solved["proven"] else f"gap {solved['gap']:.2%}, not proven optimal"
    )
    console.print(
        f"bottleneck {solved['objective']:.6f}, bound {solved['bound']:.6f}, {verdict} "
        f"({solved['solver']}, {solved['seconds']:.1f} s)"
    )
