"""The cluster file to typed devices and links."""

import difflib
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipecut.compiler.inputs.document import KEY, FileSchema, location_of, read_document
from pipecut.compiler.inputs.units import (
    parse_bytes,
    parse_flops,
    parse_rate,
    parse_seconds,
    show_bytes,
)
from pipecut.device.local import accelerator, describe, device_count
from pipecut.device.types import CPU, CUDA, DeviceType, TypeName
from pipecut.errors import UserFileError

Bytes = Annotated[int, BeforeValidator(parse_bytes)]
Rate = Annotated[float, BeforeValidator(parse_rate)]
Seconds = Annotated[float, BeforeValidator(parse_seconds)]
Flops = Annotated[float, BeforeValidator(parse_flops)]


PlanModel = Annotated[float, Field(gt=0)]


class DeviceKind(FileSchema):
    """A device kind: capacity in bytes, memory bandwidth in bytes/s, peak dense rates in FLOP/s by precision.

    `operators` says what part of the roofline each reaches, forward and backward, as calibrate finds it; `other` is for the rest.
    `names` are those that a driver gives such a device, whole.
    """

    memory: Bytes
    bandwidth: Rate
    flops: dict[Literal["fp32", "bf16", "fp16"], Flops]
    overhead: Seconds = 5e-6
    efficiency: float = Field(default=0.6, gt=0, le=1)
    operators: dict[str, Annotated[list[PlanModel], Field(min_length=2, max_length=2)]] = {}
    type: TypeName = CUDA.name
    names: list[str] = []
    source: str


class Link(FileSchema):
    """Point-to-point rate of one device in bytes/s and latency in seconds."""

    bandwidth: Rate
    latency: Seconds
    source: str = ""


class NodeSpec(FileSchema):
    """`count` equal machines."""

    name: str | None = None
    count: int = Field(default=1, ge=1, le=100_000)
    devices: dict[str, Annotated[int, Field(ge=1, le=4096)]] = Field(min_length=1)
    link: str | None = None


class ClusterSpec(FileSchema):
    """The cluster file."""

    name: str = Field(min_length=1)
    nodes: list[NodeSpec] = Field(min_length=1)
    network: Link | None = None
    reserve: Bytes = 0
    devices: dict[str, DeviceKind] = {}
    links: dict[str, Link] = {}
    source: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> "ClusterSpec":
        names = [node.name for node in self.nodes if node.name is not None]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"duplicate node '{name}'; give each entry of nodes its own name")
        if sum(node.count for node in self.nodes) > 1 and self.network is None:
            raise ValueError(
                "several nodes need a network; add network: {bandwidth: 50GB/s, latency: 10us}"
            )
        return self


class DeviceLibrary(FileSchema):
    """specs/devices.yaml."""

    devices: dict[str, DeviceKind]
    links: dict[str, Link]


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

    def rate(self, precision: str) -> float:
        """FLOP/s that a good kernel reaches: peak times efficiency."""
        rates = dict(self.flops)
        return rates.get(precision, rates["fp32"]) * self.efficiency


@dataclass(frozen=True)
class Cluster:
    """Devices in chain order, and what joins neighbours.

    `reserve` is bytes of each device that stages leave free; `further`, of each rank of a pipeline, are those beside it.
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
        remaining = tuple(d for index, d in enumerate(self.devices) if index not in lost)
        return replace(self, devices=remaining)


@cache
def library() -> DeviceLibrary:
    """The device kinds and links that come with pipecut."""
    return read_document(
        Path(str(resources.files("pipecut.specs") / "devices.yaml")), DeviceLibrary
    )


def cluster_names() -> list[str]:
    """Names of the clusters that come with pipecut."""
    folder = Path(str(resources.files("pipecut.specs") / "clusters"))
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_cluster(name: str) -> Cluster:
    """A cluster from a file, from one of the names in specs/, or `auto` for this machine.

    Raises UserFileError.
    """
    if name == "auto":
        return this_machine()
    path = Path(name)
    if not path.exists() and "/" not in name and not name.endswith((".yaml", ".yml")):
        if name not in cluster_names():
            close = difflib.get_close_matches(name, [*cluster_names(), "auto"], 1)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise UserFileError(
                f"cluster '{name}' is neither a file nor one of specs/; {hint}(pipecut specs lists them)"
            )
        path = Path(str(resources.files("pipecut.specs") / "clusters" / f"{name}.yaml"))
    return resolve(read_document(path, ClusterSpec), str(path))


def resolve(spec: ClusterSpec, path: str) -> Cluster:
    """Look up kinds and links of a cluster file."""
    kinds = {**library().devices, **spec.devices}
    links = {**library().links, **spec.links}
    devices: list[Device] = []
    inside: list[Link] = []
    for index, entry in enumerate(spec.nodes):
        for kind in entry.devices:
            _known(kind, kinds, "device", path, ("nodes", index, "devices", kind, KEY))
        if entry.link is not None:
            _known(entry.link, links, "link", path, ("nodes", index, "link"))
        elif sum(entry.devices.values()) > 1:
            raise UserFileError(
                f"{location_of(Path(path), 'nodes', index)}: a node with several devices needs a link, such as link: nvlink4"
            )
        for _ in range(entry.count):
            node = len(inside)
            inside.append(
                links[entry.link]
                if entry.link
                else Link.model_validate({"bandwidth": "1GB/s", "latency": "0us"})
            )
            for kind, count in entry.devices.items():
                devices += [_device(kind, kinds[kind], node)] * count
    small = min(devices, key=lambda device: device.memory)
    if spec.reserve >= small.memory:
        raise UserFileError(
            f"{location_of(Path(path), 'reserve')}: a reserve of {show_bytes(spec.reserve)} leaves nothing of a {small.kind}'s "
            f"{show_bytes(small.memory)}; give less"
        )
    return Cluster(spec.name, tuple(devices), tuple(inside), spec.network, spec.reserve)


def _device(name: str, kind: DeviceKind, node: int) -> Device:
    rates = tuple(sorted(kind.flops.items()))
    parts = tuple(
        (operator, (forward, backward)) for operator, (forward, backward) in kind.operators.items()
    )
    return Device(
        name,
        node,
        kind.type,
        kind.memory,
        kind.bandwidth,
        rates,
        kind.overhead,
        kind.efficiency,
        parts,
        tuple(kind.names),
    )


def _known(
    name: str,
    table: dict[str, DeviceKind] | dict[str, Link],
    what: str,
    path: str,
    location: tuple[str | int, ...],
) -> None:
    if name in table:
        return
    close = difflib.get_close_matches(name, list(table), 1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    raise UserFileError(
        f"{location_of(Path(path), *location)}: unknown {what} '{name}'; {hint}(pipecut specs lists them)"
    )


def this_machine() -> Cluster:
    """This machine's GPUs, or its CPU cores as small devices."""
    gpu = accelerator()
    if gpu is not None:
        devices = tuple(_this_gpu(gpu, index) for index in range(device_count(gpu)))
        link = Link.model_validate(
            {"bandwidth": "20GB/s", "latency": "10us"}
        )  # assumed: PCIe 4.0 x16 less protocol
        return Cluster("auto", devices, (link,), None, 3 * 2**29)
    from pipecut.compiler.inputs.probe import probe_cpu

    flops, bandwidth, overhead = probe_cpu()
    cores = os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // max(cores, 1)
    rates = (("bf16", flops), ("fp16", flops), ("fp32", flops))
    device = Device(kind_here(CPU), 0, CPU.name, memory, bandwidth, rates, overhead, 1.0)
    link = Link.model_validate(
        {"bandwidth": "1GB/s", "latency": "200us"}
    )  # assumed: gloo over loopback
    # More stages than cores is allowed for tests; the extra ones share.
    return Cluster("auto", (device,) * max(cores, 16), (link,), None, 2**28)


def kind_here(device: DeviceType) -> str:
    """The device kind of this machine's CPU, or of its first GPU: one of specs/, or from the name it gives itself."""
    if device.of_host:
        return "cpu-core"
    name = describe(device, 0).name
    return kind_of(name) or name.lower().replace(" ", "-")


def kind_of(name: str) -> str | None:
    """The kind in specs/ of a GPU by the whole name that its driver gives; None where there is none.

    A part of a name is not enough: an A100 has 40 or 80 GB, an L40S is no L4, a slice of a GPU is no GPU.
    """
    return next((kind for kind, entry in library().devices.items() if name in entry.names), None)


def _this_gpu(gpu: DeviceType, index: int) -> Device:
    local = describe(gpu, index)
    kind = kind_of(local.name)
    if kind is None:
        raise UserFileError(
            f"no device kind for GPU {index} of this machine, '{local.name}': run pipecut calibrate -o cluster.yaml, "
            "which measures it, and give --cluster cluster.yaml; or write devices: in a cluster file"
        )
    entry = library().devices[kind]
    rates = tuple(sorted(entry.flops.items()))
    memory, names = local.memory, (local.name,)
    bandwidth, overhead, efficiency = entry.bandwidth, entry.overhead, entry.efficiency
    return Device(kind, 0, gpu.name, memory, bandwidth, rates, overhead, efficiency, names=names)
