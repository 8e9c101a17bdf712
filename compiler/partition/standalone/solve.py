"""What `pipecut solve` finds for a costed graph, and prints."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from pipecut.compiler.inputs.units import parse_bytes
from pipecut.compiler.partition.explain import Remedies
from pipecut.compiler.partition.load import loads
from pipecut.compiler.partition.memory import peak_bytes
from pipecut.compiler.partition.place import SolverOptions, place
from pipecut.compiler.partition.placement import Certificate
from pipecut.compiler.partition.problem import Comm, Stages
from pipecut.compiler.partition.standalone.named import NamedProblem
from pipecut.compiler.partition.standalone.read import Uncosted, read_problem
from pipecut.errors import InfeasibleError, UserFileError
from pipecut.quantities import show_bytes

Status = Literal["optimal", "feasible", "infeasible"]

# What `pipecut solve` lets change where nothing fits.
OF_FILE = Remedies(stages="--devices", memory="--memory", of_job=False)


@dataclass(frozen=True)
class SolvedStage:
    """One stage: its device, the ids of its nodes, its load in the file's unit of time, bytes."""

    device: int
    nodes: list[Any]
    load: float
    bytes: int


@dataclass(frozen=True)
class Solved:
    """The stages and what is proven of them; or `why` there are none. `seconds` of the whole.

    `in_turns`: devices have several stages each, and the objective is the slowest device's load.
    `estimated` names the devices for which seconds were estimated, where the file has no times.
    """

    seconds: float
    solver: str
    stages: tuple[SolvedStage, ...] = ()
    certificate: Certificate | None = None
    why: str = ""
    in_turns: bool = False
    estimated: str = ""

    @property
    def status(self) -> Status:
        """Feasible is not proven optimal."""
        if self.certificate is None:
            return "infeasible"
        return "optimal" if self.certificate.proven else "feasible"

    def as_data(self) -> dict[str, Any]:
        """The result as JSON has it."""
        certificate = self.certificate
        data: dict[str, Any] = {
            "objective": certificate.objective if certificate else None,
            "bound": certificate.bound if certificate else None,
            "gap": certificate.gap if certificate else None,
            "proven": certificate is not None and certificate.proven,
            "seconds": self.seconds,
            "stages": [stage.nodes for stage in self.stages],
            "loads": [stage.load for stage in self.stages],
            "solver": self.solver,
            "status": self.status,
        }
        if certificate is None:
            return {**data, "why": self.why}
        data["bytes"] = [stage.bytes for stage in self.stages]
        if self.in_turns:
            data["devices"] = [stage.device for stage in self.stages]
        return data


def solve_file(
    path: Path,
    options: SolverOptions,
    devices: int | None = None,
    capacity: str | None = None,
    comm: Comm | None = None,
    stages_per_device: int = 1,
    uncosted: Uncosted | None = None,
) -> Solved:
    """Solve the problem of a file; `devices`, `capacity` and `comm` replace what it says.

    Raises UserFileError.
    """
    begin = time.perf_counter()
    named = read_problem(path, devices, _bytes(capacity), comm, stages_per_device, uncosted)
    in_flight = named.problem.stage_devices[0].in_flight
    try:
        stages, certificate = place(
            named.problem, options, lambda count: (in_flight,) * count, OF_FILE
        )
    except InfeasibleError as error:
        return Solved(time.perf_counter() - begin, options.solver, why=str(error))
    return Solved(
        time.perf_counter() - begin,
        certificate.solver,
        _solved_stages(named, stages),
        certificate,
        in_turns=bool(named.problem.devices),
        estimated=named.estimated,
    )


def _solved_stages(named: NamedProblem, stages: Stages) -> tuple[SolvedStage, ...]:
    problem = named.problem
    nodes: list[list[Any]] = [[] for _ in problem.stage_devices]
    for block, stage in zip(problem.blocks, stages, strict=True):
        nodes[stage] += [named.names[index] for index in block.operators]
    for row in problem.duplicated:
        for stage in sorted({stages[user] for user in row.users}):
            nodes[stage].append(named.names[row.operator])
    rows = zip(
        problem.device_of, nodes, loads(problem, stages), peak_bytes(problem, stages), strict=True
    )
    return tuple(SolvedStage(*row) for row in rows)


def _bytes(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(text) if text.isdigit() else parse_bytes(text)
    except ValueError as error:
        raise UserFileError(f"--memory: {error}") from None


def print_solved(solved: Solved, as_json: bool, console: Console) -> None:
    """One JSON object, or a table for people."""
    if as_json:
        print(json.dumps(solved.as_data()))
        return
    certificate = solved.certificate
    if certificate is None:
        console.print(solved.why)
        return
    table = Table("stage", "device", "nodes", "load", "memory")
    for index, stage in enumerate(solved.stages):
        load, size = f"{stage.load:.6g}", show_bytes(stage.bytes)
        table.add_row(str(index), str(stage.device), str(len(stage.nodes)), load, size)
    console.print(table)
    if solved.estimated:
        console.print(f"seconds of a forward pass on {solved.estimated}, estimated from shapes")
    console.print(
        f"bottleneck {certificate.objective:.6f}, bound {certificate.bound:.6f}, "
        f"{certificate.verdict} ({solved.solver}, {solved.seconds:.1f} s)"
    )
