"""The rows of the integer program that keep each device within its memory, in MiB."""

from typing import Any

import pulp

from pipecut.compiler.partition.problem import Problem
from pipecut.compiler.partition.program.transfers import Traffic
from pipecut.compiler.partition.program.variables import Program

MIB = 2.0**20


def add_memory_rows(
    problem: Problem, program: Program, traffic: Traffic, device: int, incumbent: float
) -> None:
    """Keep one device within its capacity, with saved activations of all microbatches in flight.

    Where it may recompute: with those of one microbatch, and with those of all but for what they
    save at the most within the incumbent, the least bottleneck known.
    """
    stages, model = problem.stages_of_devices()[device], program.model
    devices = [problem.stage_devices[stage] for stage in stages]
    lasting = [_transient(problem, program, device, stages)]
    lasting += [
        term.amount / MIB * term.variable for term in traffic.received[device] if term.amount
    ]
    lasting += _parameters(problem, program, stages)
    capacity = devices[0].capacity / MIB * program.fullest
    if problem.recompute != "always":
        excess: Any = 0.0
        if device in program.recompute:
            excess = most_saved(problem, stages, incumbent) / MIB * program.recompute[device].chosen
        microbatches = {s: row.in_flight for s, row in zip(stages, devices, strict=True)}
        saved = _saved(problem, program, microbatches)
        model += pulp.lpSum(lasting + saved) <= capacity + excess
    if problem.recompute != "never":
        microbatches = {
            s: row.saved_microbatches(True) for s, row in zip(stages, devices, strict=True)
        }
        saved = _saved(problem, program, microbatches)
        model += pulp.lpSum(lasting + saved) <= capacity


def _transient(problem: Problem, program: Program, device: int, stages: list[int]) -> Any:
    """transient[d] >= transient[v] x[v,s] for every block and stage."""
    model = program.model
    transient = program.transient[device] = model.add_variable(f"transient_{device}", 0)
    for stage in stages:
        for v, block in enumerate(problem.blocks):
            if block.transient_bytes:
                model += transient >= block.transient_bytes / MIB * program.on[v, stage]
    return transient


def _parameters(problem: Problem, program: Program, stages: list[int]) -> list[Any]:
    return [
        shared.bytes / MIB * program.has_user(problem, index, stage)
        for stage in stages
        for index, shared in enumerate(problem.shared)
        if shared.bytes
    ]


def _saved(problem: Problem, program: Program, microbatches: dict[int, int]) -> list[Any]:
    """What stages save for a number of microbatches each."""
    saving = [(stage, count) for stage, count in microbatches.items() if count]
    blocks = [
        (v, block.saved_bytes / MIB) for v, block in enumerate(problem.blocks) if block.saved_bytes
    ]
    terms = [count * size * program.on[v, stage] for stage, count in saving for v, size in blocks]
    terms += [
        count * shared.saved_bytes / MIB * program.has_user(problem, index, stage)
        for stage, count in saving
        for index, shared in enumerate(problem.shared)
        if shared.saved_bytes
    ]
    return terms


def most_saved(problem: Problem, stages: list[int], seconds: float) -> float:
    """The most that all but one microbatch in flight save on a device that recomputes.

    Within some seconds: a fractional knapsack of the blocks, most bytes per second first.
    """
    devices = [problem.stage_devices[stage] for stage in stages]
    kind, in_flight = devices[0].kind, max(device.in_flight for device in devices)
    saving = [block for block in problem.blocks if block.saved_bytes]
    saving.sort(key=lambda block: block.seconds_on(kind, True) / block.saved_bytes)
    saved, remaining = 0.0, seconds
    for block in saving:
        needed = block.seconds_on(kind, True)
        share = min(1.0, remaining / needed) if needed else 1.0
        saved, remaining = saved + share * block.saved_bytes, remaining - share * needed
    for_itself = len(stages) * sum(shared.saved_bytes for shared in problem.shared)
    return max(0, in_flight - 1) * (saved + for_itself)


def everything_fits(problem: Problem, stages: list[int]) -> bool:
    """Whether a device's stages could each hold everything, so that memory cannot bind there."""
    blocks, shared = problem.blocks, problem.shared
    activations = sum(tensor.forward_bytes for tensor in problem.tensors)
    activations += sum(block.saved_bytes for block in blocks)
    activations += sum(row.saved_bytes for row in shared)
    transient = max((block.transient_bytes for block in blocks), default=0)
    fixed = sum(row.bytes for row in shared)
    devices = [problem.stage_devices[stage] for stage in stages]
    held = sum(fixed + device.in_flight * activations for device in devices)
    return held + transient <= devices[0].capacity
