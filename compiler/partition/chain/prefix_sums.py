"""Sums along the order of the blocks: of all blocks before a cut, or of all tensors across one.

Cut i lies before block i; every array here has a value for each cut 0 .. number of blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipecut.compiler.partition.problem import Problem

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


@dataclass(frozen=True)
class Tensors:
    """The tensors of an order as columns: where each begins and ends, its bytes and messages.

    `edges` has, in turn, the first cut that a tensor crosses and the first after it that it does
    not.
    """

    cuts: int
    edges: Ints
    forward_bytes: Floats
    both_ways_bytes: Floats
    messages: Floats

    @classmethod
    def of(cls, problem: Problem) -> "Tensors":
        """The columns of a problem, in the order of its blocks."""
        tensors = problem.tensors
        edges = [
            edge for tensor in tensors for edge in (min(tensor.blocks) + 1, max(tensor.blocks) + 1)
        ]
        return cls(
            len(problem.blocks) + 1,
            np.array(edges, dtype=np.int64),
            np.array([tensor.forward_bytes for tensor in tensors], dtype=np.float64),
            np.array([tensor.both_ways_bytes for tensor in tensors], dtype=np.float64),
            np.array([tensor.messages for tensor in tensors], dtype=np.float64),
        )

    def across(self, amounts: Floats) -> Floats:
        """The sum of an amount of each tensor over those across each cut."""
        change = np.zeros(self.cuts + 1)
        np.add.at(change, self.edges, np.stack([amounts, -amounts], axis=1).ravel())
        result: Floats = np.cumsum(change)[: self.cuts]
        return result

    def crossing_seconds(self, problem: Problem, boundary: int) -> Floats:
        """Seconds of all tensors across each cut, over the link after stage `boundary`."""
        link = problem.stage_devices[boundary]
        seconds = self.across(self.both_ways_bytes / link.bandwidth + self.messages * link.latency)
        # A rounding error in a sum that should be zero would look like a cost.
        return np.maximum(seconds, 0.0)


def received_bytes(problem: Problem) -> Floats:
    """Bytes per microbatch that a stage receives which begins at each cut."""
    tensors = Tensors.of(problem)
    return tensors.across(tensors.forward_bytes)


def sums_before(amounts: Sequence[float] | Floats) -> Floats:
    """The sum of the amounts of the blocks before each cut."""
    return np.concatenate([[0.0], np.cumsum(amounts)])
