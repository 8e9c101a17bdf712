"""The devices that a job may use, and what joins them."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from pipecut.compiler.inputs.cluster_schema import Link
from pipecut.device.types import TypeName
from pipecut.errors import UserFileError
from pipecut.quantities import counted


@dataclass(frozen=True)
class Device:
    """One device of the cluster. Rates in FLOP/s and bytes/s, sizes in bytes, times in seconds."""

    kind: str
    node: int
    type: TypeName
    memory: int
    bandwidth: float
    flops: tuple[tuple[str, float], ...]
    overhead: float
    efficiency: float
    operators: tuple[tuple[str, tuple[float, float]], ...] = ()
    names: tuple[str, ...] = ()

    def peak(self, precision: str) -> float:
        """FLOP/s of its data sheet."""
        rates = dict(self.flops)
        return rates.get(precision, rates["fp32"])

    def rate(self, precision: str) -> float:
        """FLOP/s that a good kernel reaches: peak times efficiency."""
        return self.peak(precision) * self.efficiency


@dataclass(frozen=True)
class Cluster:
    """Devices in chain order, and what joins neighbours.

    `reserve` is the bytes of each device that stages leave free. `further` is the bytes that each
    rank of a pipeline leaves free beside these.
    """

    name: str
    devices: tuple[Device, ...]
    inside: tuple[Link, ...]
    network: Link | None
    reserve: int
    further: tuple[int, ...] = ()

    def reserve_of(self, rank: int) -> int:
        """Bytes that the stages of a rank leave free."""
        return self.reserve + (self.further[rank] if self.further else 0)

    def leaving_free(self, more: Sequence[int]) -> "Cluster":
        """The cluster whose ranks leave more bytes free than they do."""
        before = self.further or (0,) * len(more)
        return replace(self, further=tuple(map(sum, zip(before, more, strict=True))))

    def link(self, left: int, right: int) -> Link:
        """The link between two devices, by index."""
        a, b = self.devices[left].node, self.devices[right].node
        if a == b or self.network is None:
            return self.inside[a]
        return self.network

    def slowest_link(self, pairs: Iterable[tuple[int, int]]) -> Link:
        """The slowest of the links between pairs of devices."""
        return max(
            (self.link(a, b) for a, b in pairs), key=lambda link: (1 / link.bandwidth, link.latency)
        )

    def without(self, lost: Collection[int]) -> "Cluster":
        """The cluster less some devices, counted from 0. Raises UserFileError for none such."""
        count = len(self.devices)
        for index in lost:
            if not 0 <= index < count:
                raise UserFileError(
                    f"cluster {self.name} has {count} devices, but no device {index} to leave out"
                )
        if len(set(lost)) == count:
            raise UserFileError(
                f"all {counted(count, 'device')} of cluster {self.name} are left out; leave out "
                "fewer, or give another cluster"
            )
        remaining = tuple(d for index, d in enumerate(self.devices) if index not in lost)
        return replace(self, devices=remaining)
