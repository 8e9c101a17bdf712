"""What a placement costs in time: the seconds of each stage, and the bytes that move."""

from pipecut.compiler.partition.memory import recomputing, stages_with_copy, sum_by_device
from pipecut.compiler.partition.problem import Problem, Stages, TensorUse


def transfer_seconds(problem: Problem, tensor: TensorUse, stage: int) -> float:
    """Seconds that a stage spends on a tensor and its gradient over its link."""
    link = problem.stage_devices[stage]
    return tensor.both_ways_bytes / link.bandwidth + tensor.messages * link.latency


def loads(problem: Problem, stages: Stages) -> list[float]:
    """Seconds of each stage: its blocks, what it recomputes and its transfers, not overlapped."""
    result = [0.0] * len(problem.stage_devices)
    recompute = recomputing(problem, stages)
    for block, stage in zip(problem.blocks, stages, strict=True):
        result[stage] += block.seconds_on(problem.stage_devices[stage].kind, recompute[stage])
    for shared in problem.shared:
        for stage in {stages[user] for user in shared.users} if shared.seconds else ():
            kind = problem.stage_devices[stage].kind
            result[stage] += shared.seconds_on(kind, recompute[stage])
    for tensor in problem.tensors:
        source = stages[tensor.source]
        using = {stages[consumer] for consumer in tensor.consumers}
        if problem.comm == "direct":
            for stage in stages_with_copy(problem.device_of, source, using):
                result[stage] += transfer_seconds(problem, tensor, stage)
            continue
        for boundary in range(min(source, *using), max(source, *using)):
            seconds = transfer_seconds(problem, tensor, boundary)
            result[boundary] += seconds
            result[boundary + 1] += seconds
    return result


def moved_bytes(problem: Problem, stages: Stages) -> float:
    """Bytes between devices per microbatch, activations and gradients."""
    total = 0.0
    for tensor in problem.tensors:
        source = stages[tensor.source]
        using = {stages[consumer] for consumer in tensor.consumers}
        if problem.comm == "direct":
            times = max(0, len(stages_with_copy(problem.device_of, source, using)) - 1)
        else:
            times = max(source, *using) - min(source, *using)
        total += times * tensor.both_ways_bytes
    return total


def bottleneck(problem: Problem, stages: Stages) -> float:
    """Seconds of the slowest device."""
    return max(sum_by_device(problem, loads(problem, stages)).values())
