"""What comes with pipecut as tables for people."""

from rich.console import Console
from rich.table import Table

from pipecut.compiler.inputs.cluster_file import read_cluster
from pipecut.compiler.inputs.cluster_schema import DeviceLibrary
from pipecut.compiler.inputs.library import cluster_names, library
from pipecut.compiler.schedules.registry import SCHEDULES
from pipecut.quantities import show_bytes


def print_specs(console: Console) -> None:
    """Clusters, device kinds, links and schedules."""
    console.print(_clusters())
    console.print(_device_kinds(library()))
    console.print(_links(library()))
    console.print(_schedules())


def _schedules() -> Table:
    """Idle time in forwards and backwards of a microbatch, and activations, of p ranks."""
    columns = "schedule", "stages per device", "idle", "activations"
    table = Table(*columns, title="schedules of p ranks (--schedule NAME, or auto)")
    for name, schedule in SCHEDULES.items():
        stages = str(schedule.stages_per_rank or "--stages-per-rank")
        table.add_row(name, stages, schedule.idle, schedule.activations)
    return table


def _clusters() -> Table:
    table = Table("cluster", "devices", title="clusters (--cluster NAME)")
    for name in cluster_names():
        kinds = [device.kind for device in read_cluster(name).devices]
        counts = [f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds)]
        table.add_row(name, ", ".join(counts))
    table.add_row("auto", "this machine")
    return table


def _device_kinds(devices: DeviceLibrary) -> Table:
    table = Table("device", "memory", "bandwidth", "bf16", "source", title="device kinds")
    for name, kind in devices.devices.items():
        bandwidth = f"{kind.bandwidth / 1e9:.0f} GB/s"
        rate = f"{kind.flops['bf16'] / 1e12:.0f} TFLOP/s"
        table.add_row(name, show_bytes(kind.memory), bandwidth, rate, kind.source)
    return table


def _links(devices: DeviceLibrary) -> Table:
    table = Table("link", "bandwidth", "latency", "source", title="links")
    for name, link in devices.links.items():
        bandwidth, latency = f"{link.bandwidth / 1e9:.0f} GB/s", f"{link.latency * 1e6:.0f} us"
        table.add_row(name, bandwidth, latency, link.source)
    return table
