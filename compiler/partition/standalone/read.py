"""A costed graph from a file, in the published format or as a plan's graph.json, to a problem."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipecut.compiler.inputs.document.read import read_text
from pipecut.compiler.partition.problem import Comm, Problem
from pipecut.compiler.partition.standalone.published import published_problem
from pipecut.errors import UserFileError


def as_data(problem: Problem) -> dict[str, Any]:
    """The problem as JSON has it."""
    return {**asdict(problem), "edges": sorted(problem.edges)}


def read_problem(
    path: Path, devices: int | None, capacity: int | None, comm: Comm | None, each: int = 1
) -> tuple[Problem, list[Any]]:
    """The problem, and the node's id (or operator's name) of each operator index.

    `devices`, `capacity` in bytes and `comm` replace what the file says; each device takes `each` stages, in turns of one.
    Raises UserFileError.
    """
    text = read_text(path)
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        line = f":{error.lineno}:{error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UserFileError(
            f"{path}{line}: not valid JSON: {getattr(error, 'msg', error)}"
        ) from None
    if isinstance(data, dict) and "nodes" in data:
        problem, ids = published_problem(data, str(path), devices, capacity)
    elif isinstance(data, dict) and "problem" in data:
        problem, ids = _own(data, str(path), devices, capacity)
    else:
        raise UserFileError(
            f"{path}: neither the published format (it has 'nodes') nor a plan's graph.json (it has 'problem')"
        )
    problem = replace(problem, comm=comm) if comm is not None else problem
    if each > 1:
        count = len(problem.stage_devices)
        problem = replace(
            problem, stage_devices=problem.stage_devices * each, devices=tuple(range(count)) * each
        )
    return problem, ids


def _mistake(problem: Problem, operators: int) -> str | None:
    """What is wrong with a problem that was written by hand: it may name what is not there."""
    blocks, stages = range(len(problem.blocks)), range(len(problem.stage_devices))
    kinds = {slot.kind for slot in problem.stage_devices}
    named = {v for pair in (*problem.edges, *problem.splits) for v in pair} | {
        v for v, _ in problem.pins
    }
    named |= {v for c in problem.tensors for v in (c.source, *c.consumers)} | {
        v for s in problem.shared for v in s.users
    }
    placed = [i for block in problem.blocks for i in block.operators]
    checks = [
        (f"block {v} is named, but there are {len(blocks)}" for v in named if v not in blocks),
        (
            f"stage {s} is named, but there are {len(stages)}"
            for _, s in problem.pins
            if s not in stages
        ),
        (
            f"operator {i} is named, but there are {operators}"
            for i in placed
            if i not in range(operators)
        ),
        (f"an edge goes from {u} back to {v}" for u, v in problem.edges if u >= v),
        (
            f"block {v} lacks the seconds of a kind"
            for v in blocks
            if not kinds <= problem.blocks[v].seconds.keys()
        ),
        (f"{c.name} has no consumers" for c in problem.tensors if not c.consumers),
        (f"{s.name} has no users" for s in problem.shared if not s.users),
        ("it has no stage devices" for _ in range(not problem.stage_devices)),
        (
            "devices and stage devices differ in number"
            for _ in range(len(problem.devices) not in (0, len(stages)))
        ),
    ]
    return next((mistake for check in checks for mistake in check), None)


def _own(
    data: dict[str, Any], where: str, devices: int | None, capacity: int | None
) -> tuple[Problem, list[Any]]:
    try:
        problem = TypeAdapter(Problem).validate_python(data["problem"])
        ids = [operator["name"] for operator in data["operators"]]
    except (ValidationError, KeyError, TypeError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else repr(error)
        raise UserFileError(
            f"{where}: not a plan's graph.json: {reason}; compile the plan again"
        ) from None
    mistake = _mistake(problem, len(ids))
    if mistake is not None:
        raise UserFileError(f"{where}: not a plan's graph.json: {mistake}; compile the plan again")
    stage_devices = problem.stage_devices
    if devices is not None and devices != len(stage_devices):
        most = max(slot.in_flight for slot in stage_devices)
        even = len({slot.in_flight for slot in stage_devices}) == 1
        # Further stages are like the last; under 1F1B the first holds as many microbatches as there are stages.
        stage_devices = tuple(
            replace(
                stage_devices[min(s, len(stage_devices) - 1)],
                in_flight=most if even else max(1, devices - s),
            )
            for s in range(devices)
        )
    if capacity is not None:
        stage_devices = tuple(replace(slot, capacity=capacity) for slot in stage_devices)
    return replace(
        problem,
        stage_devices=stage_devices,
        devices=problem.devices if len(stage_devices) == len(problem.stage_devices) else (),
    ), ids
