"""What each rank measured, as the ranks report it to the process that started them."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter


class DeviceSpeed(BaseModel):
    """FLOP/s by precision, bytes/s of memory, seconds per operator, bytes of memory."""

    model_config = ConfigDict(frozen=True)

    flops: dict[str, float]
    bandwidth: float
    overhead: float
    memory: int


class RankReport(BaseModel):
    """One rank's device, and its messages.

    `messages` has, by bytes, seconds of one way to a neighbour. `beside_tensors` is bytes of the
    device that the process takes beside its tensors.
    """

    model_config = ConfigDict(frozen=True)

    speed: DeviceSpeed
    messages: dict[int, list[float]]
    beside_tensors: int


REPORTS = TypeAdapter(list[RankReport])


@dataclass(frozen=True)
class MachineReport:
    """What all ranks measured at once."""

    ranks: tuple[RankReport, ...]

    @staticmethod
    def read(path: Path) -> "MachineReport":
        """The reports that rank 0 wrote."""
        return MachineReport(tuple(REPORTS.validate_json(path.read_bytes())))

    def median(self, what: Callable[[DeviceSpeed], float]) -> float:
        """The median over ranks."""
        return statistics.median(what(rank.speed) for rank in self.ranks)

    @property
    def message_seconds(self) -> dict[int, float]:
        """Median seconds of one way, by bytes, over all pairs of neighbours."""
        sizes = {size for rank in self.ranks for size in rank.messages}
        times = {size: self._times(size) for size in sorted(sizes)}
        return {size: statistics.median(seconds) for size, seconds in times.items() if seconds}

    @property
    def beside_tensors(self) -> int:
        """The most bytes that a rank takes beside its tensors."""
        return max(rank.beside_tensors for rank in self.ranks)

    def _times(self, size: int) -> Sequence[float]:
        return [seconds for rank in self.ranks for seconds in rank.messages.get(size, [])]
