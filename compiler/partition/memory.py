"""What a placement holds: the bytes of each stage and device, and which of them recompute."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pipecut.compiler.partition.problem import Problem, StageDevice, Stages


@dataclass(frozen=True)
class StageBytes:
    """Bytes of a stage.

    `fixed`      parameters with gradients and optimizer states
    `saved`      activations that autograd saves, per microbatch
    `received`   tensors from other stages, per microbatch
    `transient`  the most that an operator needs for a moment
    """

    fixed: int
    saved: float
    received: float
    transient: int

    def peak(self, device: StageDevice, recompute: bool) -> float:
        """Bytes at the peak of a step, without the reserve."""
        saved = device.saved_microbatches(recompute) * self.saved
        return self.fixed + saved + device.in_flight * self.received + self.transient


def stage_bytes(problem: Problem, stages: Stages) -> list[StageBytes]:
    """What each stage holds."""
    count = len(problem.stage_devices)
    saved, received, transient, fixed = [0.0] * count, [0.0] * count, [0] * count, [0] * count
    for block, stage in zip(problem.blocks, stages, strict=True):
        saved[stage] += block.saved_bytes
        transient[stage] = max(transient[stage], block.transient_bytes)
    for tensor in problem.tensors:
        source = stages[tensor.source]
        using = {stages[consumer] for consumer in tensor.consumers}
        for stage in _receiving(problem, source, using):
            received[stage] += tensor.forward_bytes
    for shared in problem.shared:
        for stage in {stages[user] for user in shared.users}:
            fixed[stage] += shared.bytes
            saved[stage] += shared.saved_bytes
    return [StageBytes(*row) for row in zip(fixed, saved, received, transient, strict=True)]


def _receiving(problem: Problem, source: int, using: set[int]) -> Iterable[int]:
    """The stages that receive a tensor, each once."""
    if problem.comm == "direct":
        return stages_with_copy(problem.device_of, source, using)[1:]
    return {*range(source + 1, max(source, *using) + 1), *range(min(source, *using), source)}


def stages_with_copy(device_of: tuple[int, ...], source: int, using: Iterable[int]) -> list[int]:
    """The first stage of the device that makes a tensor, then that of each other that uses it.

    None when no other device uses it: then nothing moves.
    """
    receivers = {device_of[stage] for stage in using} - {device_of[source]}
    if not receivers:
        return []
    return [device_of.index(device) for device in (device_of[source], *sorted(receivers))]


def peak_bytes(problem: Problem, stages: Stages) -> list[int]:
    """Peak bytes of each stage, without the reserve."""
    used, recompute = stage_bytes(problem, stages), recomputing(problem, stages)
    rows = zip(used, problem.stage_devices, recompute, strict=True)
    return [round(row.peak(device, choice)) for row, device, choice in rows]


def recomputing(problem: Problem, stages: Stages) -> list[bool]:
    """Which stages recompute: all, none, or those of devices that are too small without."""
    if problem.recompute != "auto":
        return [problem.recompute == "always"] * len(problem.stage_devices)
    peaks, capacities = device_bytes(problem, stages, recompute=False), capacity_of(problem)
    return [peaks[device] > capacities[device] for device in problem.device_of]


def capacity_of(problem: Problem) -> dict[int, int]:
    """Bytes of each device."""
    capacities = (device.capacity for device in problem.stage_devices)
    return dict(zip(problem.device_of, capacities, strict=True))


def device_bytes(problem: Problem, stages: Stages, recompute: bool) -> dict[int, float]:
    """Peak bytes of each device: all its stages together, of their transients the largest."""
    used = stage_bytes(problem, stages)
    lasting = [
        row.peak(device, recompute) - row.transient
        for row, device in zip(used, problem.stage_devices, strict=True)
    ]
    result = sum_by_device(problem, lasting)
    transient = dict.fromkeys(result, 0)
    for row, device in zip(used, problem.device_of, strict=True):
        transient[device] = max(transient[device], row.transient)
    return {device: amount + transient[device] for device, amount in result.items()}


def sum_by_device(problem: Problem, amounts: list[float]) -> dict[int, float]:
    """Sums of an amount of each stage over the stages of a device."""
    result = dict.fromkeys(problem.device_of, 0.0)
    for device, amount in zip(problem.device_of, amounts, strict=True):
        result[device] += amount
    return result


def fits(problem: Problem, stages: Stages) -> bool:
    """Whether every device keeps within its capacity and every pin and split is obeyed."""
    pinned = all(stages[block] == stage for block, stage in problem.pins)
    split = all(stages[first] < stages[last] for first, last in problem.splits)
    if not (pinned and split):
        return False
    least = device_bytes(problem, stages, recompute=problem.recompute != "never")
    rows = zip(problem.device_of, problem.stage_devices, strict=True)
    return all(least[device] <= row.capacity for device, row in rows)


def fullest(problem: Problem, stages: Stages) -> float:
    """The largest part of its capacity that a device uses."""
    recompute = dict(zip(problem.device_of, recomputing(problem, stages), strict=True))
    used = {choice: device_bytes(problem, stages, choice) for choice in set(recompute.values())}
    return max(
        used[recompute[device]][device] / max(capacity, 1)
        for device, capacity in capacity_of(problem).items()
    )


def evenly_shared(problem: Problem) -> Problem:
    """The problem with a device of its own for each stage.

    Each has an even share of the memory of the device that its stages are on together.
    """
    stages_on = Counter(problem.device_of)
    stage_devices = tuple(
        replace(row, capacity=row.capacity // stages_on[device])
        for row, device in zip(problem.stage_devices, problem.device_of, strict=True)
    )
    return replace(problem, stage_devices=stage_devices, devices=())
