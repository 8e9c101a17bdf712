"""`pipecut solve`: a costed graph or an ONNX model, partitioned without running it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from pipecut.commands.options import (
    CommOption,
    DimensionOption,
    OnnxClusterOption,
    SolverOption,
    TimeLimitOption,
    TurnsOption,
)
from pipecut.console import console, progress_line, refuse_other_than
from pipecut.errors import UserFileError

if TYPE_CHECKING:
    from pipecut.compiler.partition.problem import Comm

# A larger dimension has no tensor on any device.
MOST_SIZE = 2**31 - 1


def solve(
    graph: Annotated[
        Path,
        typer.Argument(
            help="A costed graph (the published placement format, or a plan's graph.json), or an"
            " ONNX model."
        ),
    ],
    devices: Annotated[
        int | None, typer.Option(min=1, help="Number of devices; default: the file's.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="Memory of each device, such as 16GiB; default: the file's."),
    ] = None,
    comm: CommOption = None,
    stages_per_device: TurnsOption = 1,
    time_limit: TimeLimitOption = 25.0,
    gap: Annotated[float, typer.Option(min=0.0, help="Relative gap at which to stop.")] = 1e-7,
    solver: SolverOption = "highs",
    cluster: OnnxClusterOption = None,
    dim: DimensionOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Partition a graph without running any model, and say what is proven.

    A costed graph has its times. An ONNX model's are estimated from shapes, for a forward pass on
    the devices of --cluster (hgx-h100); only the file itself is read, so weights may be absent.

    Examples: pipecut solve layer_gnmt.json --devices 6 --json

    pipecut solve model.onnx --devices 4 --cluster rtx-4090x4 --dim batch=8
    """
    from pipecut.compiler.partition.place import SolverOptions
    from pipecut.compiler.partition.program.solver import SOLVERS
    from pipecut.compiler.partition.standalone.read import Uncosted
    from pipecut.compiler.partition.standalone.solve import print_solved, solve_file

    refuse_other_than("--comm", comm, ("direct", "relay"))
    refuse_other_than("--solver", solver, SOLVERS)
    transfers = cast("Comm | None", comm)  # checked above
    uncosted = Uncosted(cluster, dict(map(_dimension, dim or ())))
    with progress_line(f"solving {graph}"):
        options = SolverOptions(solver, time_limit, gap)
        solved = solve_file(graph, options, devices, memory, transfers, stages_per_device, uncosted)
    print_solved(solved, as_json, console)
    if solved.status == "infeasible":
        raise typer.Exit(3)


def _dimension(text: str) -> tuple[str, int]:
    """A name and its size. Raises UserFileError."""
    name, _, size = text.rpartition("=")
    number = int(size) if size.isdecimal() and len(size) <= len(str(MOST_SIZE)) else 0
    if not name or not 1 <= number <= MOST_SIZE:
        raise UserFileError(
            f"--dim {text}: must be a name and a number from 1 to {MOST_SIZE}, as batch=8"
        )
    return name, number
