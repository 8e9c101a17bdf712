"""A cluster file, the name of one that comes with pipecut, or `auto`, to devices and links."""

import difflib
from collections.abc import Collection
from pathlib import Path

from pipecut.compiler.inputs.auto import AUTO
from pipecut.compiler.inputs.cluster import Cluster, Device
from pipecut.compiler.inputs.cluster_schema import ClusterSpec, DeviceKind, Link, NodeSpec
from pipecut.compiler.inputs.document.positions import KEY, Location, location_of
from pipecut.compiler.inputs.document.read import read_document
from pipecut.compiler.inputs.library import cluster_names, cluster_path, library
from pipecut.compiler.inputs.machine import this_machine
from pipecut.errors import UserFileError
from pipecut.quantities import show_bytes

# Within a node that has a single device nothing is sent.
UNUSED = Link.model_validate({"bandwidth": "1GB/s", "latency": "0us"})


def read_cluster(name: str) -> Cluster:
    """A cluster from a file, from one of the names in specs/, or `auto` for this machine.

    Raises UserFileError.
    """
    if name == AUTO.value:
        return this_machine()
    path = Path(name)
    if not path.exists() and "/" not in name and not name.endswith((".yaml", ".yml")):
        if name not in cluster_names():
            hint = _did_you_mean(name, [*cluster_names(), AUTO.value])
            raise UserFileError(f"cluster '{name}' is neither a file nor one of specs/; {hint}")
        path = cluster_path(name)
    return resolve(read_document(path, ClusterSpec), path)


def resolve(spec: ClusterSpec, path: Path) -> Cluster:
    """Look up the kinds and links of a cluster file. Raises UserFileError."""
    kinds = {**library().devices, **spec.devices}
    links = {**library().links, **spec.links}
    devices: list[Device] = []
    inside: list[Link] = []
    for index, entry in enumerate(spec.nodes):
        _refuse_unknown(entry, index, kinds, links, path)
        for _ in range(entry.count):
            node = len(inside)
            inside.append(links[entry.link] if entry.link else UNUSED)
            for kind, count in entry.devices.items():
                devices += [_device(kind, kinds[kind], node)] * count
    _refuse_large_reserve(spec.reserve, devices, path)
    return Cluster(spec.name, tuple(devices), tuple(inside), spec.network, spec.reserve)


def _device(name: str, kind: DeviceKind, node: int) -> Device:
    return Device(
        name,
        node,
        kind.type,
        kind.memory,
        kind.bandwidth,
        tuple(sorted(kind.flops.items())),
        kind.overhead,
        kind.efficiency,
        tuple(
            (operator, (forward, backward))
            for operator, (forward, backward) in kind.operators.items()
        ),
        tuple(kind.names),
    )


def _refuse_unknown(
    entry: NodeSpec,
    index: int,
    kinds: Collection[str],
    links: Collection[str],
    path: Path,
) -> None:
    for kind in entry.devices:
        _refuse_stranger(kind, kinds, "device", path, ("nodes", index, "devices", kind, KEY))
    if entry.link is not None:
        _refuse_stranger(entry.link, links, "link", path, ("nodes", index, "link"))
    elif sum(entry.devices.values()) > 1:
        raise UserFileError(
            f"{location_of(path, 'nodes', index)}: a node with several devices needs a link, "
            "such as link: nvlink4"
        )


def _refuse_stranger(
    name: str, names: Collection[str], what: str, path: Path, location: Location
) -> None:
    if name not in names:
        hint = _did_you_mean(name, names)
        raise UserFileError(f"{location_of(path, *location)}: unknown {what} '{name}'; {hint}")


def _did_you_mean(name: str, names: Collection[str]) -> str:
    close = difflib.get_close_matches(name, names, 1)
    meant = f"did you mean '{close[0]}'? " if close else ""
    return f"{meant}pipecut specs lists them"


def _refuse_large_reserve(reserve: int, devices: list[Device], path: Path) -> None:
    smallest = min(devices, key=lambda device: device.memory)
    if reserve >= smallest.memory:
        raise UserFileError(
            f"{location_of(path, 'reserve')}: a reserve of {show_bytes(reserve)} leaves nothing "
            f"of a {smallest.kind}'s {show_bytes(smallest.memory)}; give less"
        )
