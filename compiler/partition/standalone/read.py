"""A costed graph from a file, in the published format or as a plan's graph.json, to a problem."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipecut.compiler.inputs.document.read import read_text
from pipecut.compiler.partition.problem import Comm, Problem
from pipecut.compiler.partition.standalone.graph_json import plan_problem
from pipecut.compiler.partition.standalone.named import NamedProblem
from pipecut.compiler.partition.standalone.published import published_problem
from pipecut.errors import UserFileError


def read_problem(
    path: Path,
    devices: int | None = None,
    capacity: int | None = None,
    comm: Comm | None = None,
    stages_per_device: int = 1,
) -> NamedProblem:
    """The problem of a file, and its names.

    `devices`, `capacity` in bytes and `comm` replace what the file says; several stages per device
    take turns. Raises UserFileError.
    """
    data = _json(path)
    if isinstance(data, dict) and "nodes" in data:
        named = published_problem(data, str(path), devices, capacity)
    elif isinstance(data, dict) and "problem" in data:
        named = plan_problem(data, str(path), devices, capacity)
    else:
        raise UserFileError(
            f"{path}: neither the published format (it has 'nodes') nor a plan's graph.json (it "
            "has 'problem')"
        )
    problem = replace(named.problem, comm=comm) if comm is not None else named.problem
    if stages_per_device > 1:
        problem = in_turns(problem, stages_per_device)
    return replace(named, problem=problem)


def in_turns(problem: Problem, stages_per_device: int) -> Problem:
    """The problem with several stages on each device, the first of each before all second ones."""
    devices = tuple(range(len(problem.stage_devices)))
    return replace(
        problem,
        stage_devices=problem.stage_devices * stages_per_device,
        devices=devices * stages_per_device,
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}:{error.colno}"
        raise UserFileError(f"{where}: not valid JSON: {error.msg}") from None
    except RecursionError as error:
        raise UserFileError(f"{path}: not valid JSON: {error}") from None
