"""The problem within a plan's graph.json: written, read again, and refused where it was broken."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipecut.compiler.partition.problem import Problem, StageDevice
from pipecut.compiler.partition.standalone.named import NamedProblem
from pipecut.errors import UserFileError


def as_data(problem: Problem) -> dict[str, Any]:
    """The problem as JSON has it."""
    return {**asdict(problem), "edges": sorted(problem.edges)}


def plan_problem(
    data: dict[str, Any], where: str, devices: int | None, capacity: int | None
) -> NamedProblem:
    """The problem of a plan's graph.json, on other devices where asked. Raises UserFileError."""
    try:
        problem = TypeAdapter(Problem).validate_python(data["problem"])
        names = [operator["name"] for operator in data["operators"]]
    except (ValidationError, KeyError, TypeError) as error:
        raise _refused(where, _what_is_wrong(error)) from None
    mistake = next(mistakes(problem, len(names)), None)
    if mistake is not None:
        raise _refused(where, mistake)
    if devices is not None and devices != len(problem.stage_devices):
        stage_devices = _other_count(problem.stage_devices, devices)
        problem = replace(problem, stage_devices=stage_devices, devices=())
    if capacity is not None:
        stage_devices = tuple(replace(row, capacity=capacity) for row in problem.stage_devices)
        problem = replace(problem, stage_devices=stage_devices)
    return NamedProblem(problem, names)


def _what_is_wrong(error: ValidationError | KeyError | TypeError) -> str:
    """The key that is wrong or missing, and why."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, ('problem', *first['loc'])))}: {first['msg']}"
    if isinstance(error, KeyError):
        return f"it has no key {error}"
    return "operators must be a list of mappings that have a name"


def _refused(where: str, reason: str) -> UserFileError:
    return UserFileError(f"{where}: not a plan's graph.json: {reason}; compile the plan again")


def _other_count(stage_devices: tuple[StageDevice, ...], count: int) -> tuple[StageDevice, ...]:
    """Fewer or more stages: further ones are like the last.

    Under 1F1B the first holds as many microbatches as there are stages, each next one fewer.
    """
    in_flight = [device.in_flight for device in stage_devices]
    is_even = len(set(in_flight)) == 1
    return tuple(
        replace(
            stage_devices[min(stage, len(stage_devices) - 1)],
            in_flight=max(in_flight) if is_even else max(1, count - stage),
        )
        for stage in range(count)
    )


def mistakes(problem: Problem, operators: int) -> Iterator[str]:
    """What is wrong with a problem that was edited by hand: it may name what is not there."""
    blocks, stages = range(len(problem.blocks)), range(len(problem.stage_devices))
    for block in sorted(_named_blocks(problem)):
        if block not in blocks:
            yield f"block {block} is named, but there are {len(blocks)}"
    for _, stage in problem.pins:
        if stage not in stages:
            yield f"stage {stage} is named, but there are {len(stages)}"
    for index in _named_operators(problem):
        if index not in range(operators):
            yield f"operator {index} is named, but there are {operators}"
    for source, consumer in sorted(problem.edges):
        if source >= consumer:
            yield f"an edge goes from {source} back to {consumer}"
    for number, block_row in enumerate(problem.blocks):
        if not block_row.seconds.keys() >= set(problem.kinds):
            yield f"block {number} lacks the seconds of a kind"
    yield from (f"{row.name} has no consumers" for row in problem.tensors if not row.consumers)
    yield from (f"{row.name} has no users" for row in problem.shared if not row.users)
    if not problem.stage_devices:
        yield "it has no stage devices"
    if len(problem.devices) not in (0, len(stages)):
        yield "devices and stage devices differ in number"


def _named_blocks(problem: Problem) -> set[int]:
    named = {block for pair in (*problem.edges, *problem.splits) for block in pair}
    named |= {block for block, _ in problem.pins}
    named |= {block for tensor in problem.tensors for block in tensor.blocks}
    named |= {user for shared in problem.shared for user in shared.users}
    return named | {user for operator in problem.duplicated for user in operator.users}


def _named_operators(problem: Problem) -> list[int]:
    placed = [index for block in problem.blocks for index in block.operators]
    return [*placed, *(row.operator for row in problem.duplicated)]
