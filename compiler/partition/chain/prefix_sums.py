"""Sums along the order of the blocks: of all blocks before a cut, or of all tensors across one.

Cut i lies before block i; every array here has a value for each cut 0 .. number of blocks.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipecut.compiler.partition.load import transfer_seconds
from pipecut.compiler.partition.problem import Problem, TensorUse

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def work_before(problem: Problem, kind: str, recompute: bool) -> Floats:
    """Seconds on a kind of device of the blocks before each cut.

    With those of what stages compute for themselves, counted at the first block that needs it.
    """
    seconds = [block.seconds_on(kind, recompute) for block in problem.blocks]
    for shared in problem.shared:
        if shared.seconds:
            seconds[min(shared.users)] += shared.seconds_on(kind, recompute)
    return sums_before(seconds)


def duplicate_seconds(problem: Problem, kind: str, recompute: bool) -> Floats:
    """Seconds to compute once more what blocks on both sides of each cut need."""
    change = np.zeros(len(problem.blocks) + 2)
    for shared in problem.shared:
        if shared.seconds and len(shared.users) > 1:
            change[min(shared.users) + 1] += shared.seconds_on(kind, recompute)
            change[max(shared.users) + 1] -= shared.seconds_on(kind, recompute)
    # A rounding error in a sum that should be zero would look like a cost.
    result: Floats = np.maximum(np.cumsum(change)[: len(problem.blocks) + 1], 0.0)
    return result


def crossing_seconds(problem: Problem, boundary: int) -> Floats:
    """Seconds of all tensors across each cut, over the link after stage `boundary`."""
    seconds = crossing_amounts(problem, lambda tensor: transfer_seconds(problem, tensor, boundary))
    # A rounding error in a sum that should be zero would look like a cost.
    return np.maximum(seconds, 0.0)


def received_bytes(problem: Problem) -> Floats:
    """Bytes per microbatch that a stage receives which begins at each cut."""
    return crossing_amounts(problem, lambda tensor: tensor.forward_bytes)


def crossing_amounts(problem: Problem, amount: Callable[[TensorUse], float]) -> Floats:
    """The sum of an amount over the tensors across each cut."""
    change = np.zeros(len(problem.blocks) + 2)
    for tensor in problem.tensors:
        change[min(tensor.blocks) + 1] += amount(tensor)
        change[max(tensor.blocks) + 1] -= amount(tensor)
    result: Floats = np.cumsum(change)[: len(problem.blocks) + 1]
    return result


def sums_before(amounts: list[float]) -> Floats:
    """The sum of the amounts of the blocks before each cut."""
    return np.concatenate([[0.0], np.cumsum(amounts)])
