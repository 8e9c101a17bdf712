"""A graph from a file to a problem: the published format, a plan's graph.json, or ONNX."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipecut.compiler.inputs.cluster_file import read_cluster
from pipecut.compiler.inputs.document.read import read_text
from pipecut.compiler.partition.problem import Comm, Problem
from pipecut.compiler.partition.standalone.graph_json import plan_problem
from pipecut.compiler.partition.standalone.named import NamedProblem
from pipecut.compiler.partition.standalone.published import published_problem
from pipecut.errors import UserFileError
from pipecut.extras import READING, need
from pipecut.plan.folder import GRAPH

SUFFIX = ".onnx"
# An ONNX model has no devices: those of a common node, where none are named.
DEFAULT_CLUSTER = "hgx-h100"


@dataclass(frozen=True)
class Uncosted:
    """What an ONNX model does not say: the devices, by a cluster's name, and sizes by name."""

    cluster: str | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)

    def refuse_given(self, path: Path) -> None:
        """Raises UserFileError where something is given for a file that has it."""
        option = "--cluster" if self.cluster is not None else "--dim" if self.sizes else None
        if option is not None:
            raise UserFileError(
                f"{option} is for ONNX models, and {path} has its costs; leave it out"
            )


def read_problem(
    path: Path,
    devices: int | None = None,
    capacity: int | None = None,
    comm: Comm | None = None,
    stages_per_device: int = 1,
    uncosted: Uncosted | None = None,
) -> NamedProblem:
    """The problem of a file, and its names.

    `devices`, `capacity` in bytes and `comm` replace what the file says; several stages per device
    take turns. Raises UserFileError.
    """
    uncosted = uncosted or Uncosted()
    if path.suffix.lower() == SUFFIX:
        named = _of_onnx(path, uncosted, devices, capacity)
    else:
        uncosted.refuse_given(path)
        named = _of_costed(path, devices, capacity)
    problem = replace(named.problem, comm=comm) if comm is not None else named.problem
    if stages_per_device > 1:
        problem = in_turns(problem, stages_per_device)
    return replace(named, problem=problem)


def _of_onnx(
    path: Path, uncosted: Uncosted, devices: int | None, capacity: int | None
) -> NamedProblem:
    need(READING, f"{path}: pipecut solve")
    from pipecut.compiler.partition.standalone.onnx_model.problem import onnx_problem
    from pipecut.compiler.partition.standalone.onnx_model.read import read_onnx

    cluster = read_cluster(uncosted.cluster or DEFAULT_CLUSTER)
    return onnx_problem(read_onnx(path, uncosted.sizes), cluster, devices, capacity)


def _of_costed(path: Path, devices: int | None, capacity: int | None) -> NamedProblem:
    data = _json(path)
    if isinstance(data, dict) and "nodes" in data:
        return published_problem(data, str(path), devices, capacity)
    if isinstance(data, dict) and "problem" in data:
        return plan_problem(data, str(path), devices, capacity)
    raise UserFileError(
        f"{path}: neither the published format (it has 'nodes') nor a plan's graph.json (it has "
        f"'problem'); a model's file ends in {SUFFIX}"
    )


def in_turns(problem: Problem, stages_per_device: int) -> Problem:
    """The problem with several stages on each device, the first of each before all second ones."""
    devices = tuple(range(len(problem.stage_devices)))
    return replace(
        problem,
        stage_devices=problem.stage_devices * stages_per_device,
        devices=devices * stages_per_device,
    )


def _json(path: Path) -> Any:
    graph = path / GRAPH
    if graph.is_file():
        raise UserFileError(f"{path}: is a plan folder; give its {graph}")
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}:{error.colno}"
        raise UserFileError(f"{where}: not valid JSON: {error.msg}") from None
    except RecursionError as error:
        raise UserFileError(f"{path}: not valid JSON: {error}") from None
