"""What blocks weigh: seconds on each kind of device, saved bytes, parameter bytes."""

from dataclasses import dataclass

import numpy as np

from pipecut.compiler.partition.chain.prefix_sums import Floats
from pipecut.compiler.partition.problem import Problem, SharedParameter, StageDevice


@dataclass(frozen=True)
class Quantities:
    """The rows of a table of amounts, by number."""

    kinds: tuple[str, ...]

    def seconds(self, kind: str) -> int:
        """Row of the forward and backward seconds on a kind of device."""
        return self.kinds.index(kind)

    def forward_seconds(self, kind: str) -> int:
        """Row of the forward seconds on a kind of device."""
        return len(self.kinds) + self.kinds.index(kind)

    @property
    def saved(self) -> int:
        """Row of the saved bytes per microbatch."""
        return 2 * len(self.kinds)

    @property
    def parameters(self) -> int:
        """Row of the bytes of parameters with gradients and states."""
        return 2 * len(self.kinds) + 1

    @property
    def count(self) -> int:
        """How many rows there are."""
        return 2 * len(self.kinds) + 2

    def of_blocks(self, problem: Problem) -> list[Floats]:
        """A row per quantity with a number for each block, what only the block uses included."""
        blocks = problem.blocks
        rows = [np.array([block.seconds[kind] for block in blocks]) for kind in self.kinds]
        for kind in self.kinds:
            rows.append(np.array([block.forward_seconds.get(kind, 0.0) for block in blocks]))
        rows.append(np.array([float(block.saved_bytes) for block in blocks]))
        rows.append(np.zeros(len(blocks)))
        for shared in problem.shared:
            if len(shared.users) == 1:
                for row, amount in zip(rows, self.of_shared(shared), strict=True):
                    row[shared.users[0]] += amount
        return rows

    def of_shared(self, shared: SharedParameter) -> list[float]:
        """A number per quantity."""
        tables = (shared.seconds, shared.forward_seconds)
        seconds = [table.get(kind, 0.0) for table in tables for kind in self.kinds]
        return [*seconds, float(shared.saved_bytes), float(shared.bytes)]

    def named(self, rows: list[Floats]) -> "Amounts":
        """The rows of a table by name."""
        return Amounts(
            {kind: rows[self.seconds(kind)] for kind in self.kinds},
            {kind: rows[self.forward_seconds(kind)] for kind in self.kinds},
            rows[self.saved],
            rows[self.parameters],
        )


@dataclass(frozen=True)
class Amounts:
    """Amounts of a set of blocks, or of each of many sets: seconds by kind of device, bytes."""

    seconds: dict[str, Floats]
    forward_seconds: dict[str, Floats]
    saved: Floats
    parameters: Floats

    def seconds_on(self, device: StageDevice, recompute: bool) -> Floats:
        """Seconds on a stage's device."""
        forward = self.forward_seconds[device.kind] if recompute else 0.0
        return self.seconds[device.kind] + forward

    def bytes_on(self, device: StageDevice, recompute: bool) -> Floats:
        """Bytes on a stage's device, but for what it receives."""
        return self.parameters + device.saved_microbatches(recompute) * self.saved
