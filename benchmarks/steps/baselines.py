"""How other projects place operators, on the partitioner's own problem.

Each function returns the stage of every block, in the order of the blocks.
"""

from collections.abc import Callable

import numpy as np

from pipecut.compiler.partition.problem import Problem


def equal_operators(problem: Problem) -> list[int]:
    """As many operators on each device."""
    return _even(problem, [float(len(block.operators)) for block in problem.blocks])


def equal_parameters(problem: Problem) -> list[int]:
    """As many bytes of parameters on each device: DeepSpeed's `partition_method="parameters"`."""
    return _even(problem, _sizes(problem))


def chain_by_time(problem: Problem) -> list[int]:
    """Dynamic program over prefix sums of time, without transfers: torchgpipe's block partition."""
    seconds = [block.seconds[problem.stage_devices[0].kind] for block in problem.blocks]
    work = np.concatenate([[0.0], np.cumsum(seconds)])
    count, stages = len(seconds), len(problem.stage_devices)
    best = np.where(np.arange(count + 1) == 0, 0.0, np.inf)
    choice = np.zeros((stages, count + 1), dtype=int)
    for stage in range(stages):
        following = np.full(count + 1, np.inf)
        for end in range(count + 1):
            value = np.maximum(best[: end + 1], work[end] - work[: end + 1])
            choice[stage, end] = int(np.argmin(value))
            following[end] = value[choice[stage, end]]
        best = following
    result, stop = [0] * count, count
    for stage in range(stages - 1, -1, -1):
        start = int(choice[stage, stop])
        result[start:stop] = [stage] * (stop - start)
        stop = start
    return result


def greedy_fill(problem: Problem) -> list[int]:
    """Fill each device to its share of the memory, one after the other: accelerate's device map."""
    sizes = _sizes(problem)
    share = sum(sizes) / len(problem.stage_devices)
    result, stage, held = [], 0, 0.0
    for size in sizes:
        if held > 0 and held + size > share and stage + 1 < len(problem.stage_devices):
            stage, held = stage + 1, 0.0
        held += size
        result.append(stage)
    return result


def _sizes(problem: Problem) -> list[float]:
    sizes = [0.0] * len(problem.blocks)
    for shared in problem.shared:
        sizes[shared.users[0]] += shared.bytes
    return sizes


def _even(problem: Problem, weights: list[float]) -> list[int]:
    """Cut where the running weight passes each share."""
    total = sum(weights) or 1.0
    middle = np.cumsum(weights) - np.array(weights) / 2
    shares = (middle / total * len(problem.stage_devices)).astype(int)
    return [min(int(stage), len(problem.stage_devices) - 1) for stage in shares]


BASELINES: dict[str, Callable[[Problem], list[int]]] = {
    "equal count": equal_operators,
    "equal parameters": equal_parameters,
    "chain by time": chain_by_time,
    "greedy fill": greedy_fill,
}
