"""Clusters and costed graphs made by hand, to start tests of compiler passes from values."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipecut.compiler.costs.roofline import CostedGraph, OperatorCost
from pipecut.compiler.graph import Graph
from pipecut.compiler.inputs.cluster import Cluster, Device
from pipecut.compiler.inputs.cluster_schema import Link
from pipecut.compiler.inputs.job import Job, JobSpec
from pipecut.compiler.profile.measured_costs import MeasuredCosts

GIB = 2**30
KIND = "core"


def made_device(kind: str = KIND, node: int = 0, **fields: Any) -> Device:
    """A core of 1 GiB at 1 GFLOP/s and 1 GB/s."""
    usual = {"type": "cpu", "memory": GIB, "bandwidth": 1e9, "flops": (("fp32", 1e9),)}
    return Device(kind, node, **(usual | {"overhead": 0.0, "efficiency": 1.0} | fields))


def made_link(bandwidth: str = "1GB/s", latency: str = "0us") -> Link:
    """A link of 1 GB/s."""
    return Link.model_validate({"bandwidth": bandwidth, "latency": latency})


def made_cluster(devices: Sequence[Device] | int = 4, reserve: int = 0) -> Cluster:
    """Cores of one node, or the devices; 1 GB/s between all."""
    if isinstance(devices, int):
        devices = [made_device()] * devices
    nodes = 1 + max(device.node for device in devices)
    return Cluster("made", tuple(devices), (made_link(),) * nodes, made_link(), reserve)


def made_job(**keys: Any) -> Job:
    """A job of 8 samples in microbatches of 2, whose file does not exist."""
    usual = {
        "model": {"factory": "models:build"},
        "inputs": "models:inputs",
        "batch": {"global": 8, "microbatch": 2},
        "recompute": "never",
    }
    return Job(Path("job.yaml"), JobSpec.model_validate(usual | keys))


def made_costs(graph: Graph, seconds: Sequence[float] | float = 1.0) -> CostedGraph:
    """Seconds forward of each operator, and as many backward; nothing is saved for backward."""
    if not isinstance(seconds, Sequence):
        seconds = [seconds] * len(graph.operators)
    costs = tuple(OperatorCost({KIND: s}, {KIND: s}, 0, 0) for s in seconds)
    return CostedGraph(graph, costs, {}, {name: name for name in graph.values})


class MadeEstimates:
    """The same costs for every microbatch size, times its samples."""

    def __init__(self, graph: Graph, seconds: float = 1.0, unmeasured: tuple[str, ...] = ()):
        self.graph, self.seconds, self.unmeasured = graph, seconds, unmeasured
        self.measured = MeasuredCosts("profile" if unmeasured else "roofline")

    def estimate(self, microbatch: int) -> CostedGraph:
        return made_costs(self.graph, self.seconds * microbatch)

    def unmeasured_kinds(self, microbatch: int) -> tuple[str, ...]:
        return self.unmeasured
