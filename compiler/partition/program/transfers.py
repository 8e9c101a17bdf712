"""Variables for the tensors that move, and what each adds to loads and to memory."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from pipecut.compiler.partition.load import transfer_seconds
from pipecut.compiler.partition.problem import Problem
from pipecut.compiler.partition.program.variables import Program, Transfer


@dataclass(frozen=True)
class Term:
    """An amount where a variable is 1."""

    variable: Any
    amount: float


@dataclass(frozen=True)
class Traffic:
    """Terms of each device: seconds of its load, bytes that its stages receive in all."""

    load: dict[int, list[Term]] = field(default_factory=lambda: defaultdict(list))
    received: dict[int, list[Term]] = field(default_factory=lambda: defaultdict(list))


def relayed_traffic(problem: Problem, program: Program) -> Traffic:
    """cross[t,s] >= y[source,s] - y[consumer,s], and the reverse where a consumer comes first."""
    traffic, model, y = Traffic(), program.model, program.up_to
    device_of = problem.device_of
    backwards = any(min(tensor.consumers) < tensor.source for tensor in problem.tensors)
    for index, tensor in enumerate(problem.tensors):
        for stage in range(len(problem.stage_devices) - 1):
            cross = model.add_variable(f"cross_{index}_{stage}", 0, 1)
            for consumer in tensor.consumers:
                model += cross >= y[tensor.source, stage] - y[consumer, stage]
                if backwards:
                    model += cross >= y[consumer, stage] - y[tensor.source, stage]
            seconds = transfer_seconds(problem, tensor, stage)
            traffic.load[device_of[stage]].append(Term(cross, seconds))
            traffic.load[device_of[stage + 1]].append(Term(cross, seconds))
            # Where the direction is open, both sides are taken to hold what crosses.
            for holder in (stage, stage + 1) if backwards else (stage + 1,):
                size = problem.stage_devices[holder].in_flight * tensor.forward_bytes
                traffic.received[device_of[holder]].append(Term(cross, size))
            program.transfers.append(Transfer(cross, index, stage, "cross"))
    return traffic


def direct_traffic(
    problem: Problem, program: Program, on_device: dict[tuple[int, int], Any]
) -> Traffic:
    """leave[t,d] >= x[source,d] - x[consumer,d], arrive[t,d] >= x[consumer,d] - x[source,d]."""
    traffic, model = Traffic(), program.model
    first_stage = {device: stages[0] for device, stages in problem.stages_of_devices().items()}
    for index, tensor in enumerate(problem.tensors):
        for device, stage in first_stage.items():
            leave = model.add_variable(f"leave_{index}_{device}", 0, 1)
            arrive = model.add_variable(f"arrive_{index}_{device}", 0, 1)
            for consumer in tensor.consumers:
                model += leave >= on_device[tensor.source, device] - on_device[consumer, device]
                model += arrive >= on_device[consumer, device] - on_device[tensor.source, device]
            seconds = transfer_seconds(problem, tensor, stage)
            size = problem.stage_devices[stage].in_flight * tensor.forward_bytes
            traffic.load[device] += [Term(leave, seconds), Term(arrive, seconds)]
            traffic.received[device].append(Term(arrive, size))
            program.transfers.append(Transfer(leave, index, device, "leave"))
            program.transfers.append(Transfer(arrive, index, device, "arrive"))
    return traffic
