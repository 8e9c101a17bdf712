"""Devices are what their drivers say they are."""

from typing import Any

import pytest

from pipecut.compiler.inputs import machine
from pipecut.compiler.inputs.cluster import Cluster, Device
from pipecut.compiler.inputs.cluster_file import read_cluster
from pipecut.compiler.inputs.cluster_schema import Link
from pipecut.compiler.inputs.library import cluster_names, kind_of, library
from pipecut.compiler.inputs.machine import this_machine
from pipecut.compiler.partition.node_order import stage_devices_for
from pipecut.device.local import LocalDevice
from pipecut.device.types import CUDA
from pipecut.errors import UserFileError
from pipecut.plan.layout import RankLayout

GIB = 2**30


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NVIDIA A100-SXM4-40GB", "a100-sxm-40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA RTX A6000", "rtx-a6000"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA RTX 6000 Ada Generation", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA H200 NVL", None),
    ],
)
def test_a_kind_is_matched_by_the_whole_name(name: str, kind: str | None) -> None:
    assert kind_of(name) == kind


def test_no_name_belongs_to_two_kinds() -> None:
    names = [name for kind in library().devices.values() for name in kind.names]
    assert len(names) == len(set(names)) and all(kind.names for kind in library().devices.values())


def test_memory_is_what_the_driver_reports() -> None:
    memory = {kind: entry.memory for kind, entry in library().devices.items()}
    assert memory["h100-sxm"] == 81559 * 2**20 and 79.6 * GIB < memory["h100-sxm"] < 79.7 * GIB
    # No kind has the decimal gigabytes of its name, and none more than the name says in binary.
    assert all(bytes % 2**20 == 0 for bytes in memory.values())


@pytest.mark.parametrize("name", cluster_names())
def test_every_cluster_that_comes_along_can_be_read(name: str) -> None:
    assert read_cluster(name).devices


def test_an_unknown_gpu_asks_for_a_definition(monkeypatch: Any) -> None:
    gpu = LocalDevice("NVIDIA RTX 6000 Ada Generation", 48 * GIB)
    monkeypatch.setattr(machine, "accelerator", lambda: CUDA)
    monkeypatch.setattr(machine, "device_count", lambda _: 1)
    monkeypatch.setattr(machine, "describe", lambda *_: gpu)
    with pytest.raises(
        UserFileError, match="'NVIDIA RTX 6000 Ada Generation': run pipecut calibrate"
    ):
        this_machine()


def test_the_slowest_replica_is_that_at_the_jobs_precision() -> None:
    def device(kind: str, node: int, fp32: float, bf16: float) -> Device:
        return Device(kind, node, "cuda", GIB, 1e12, (("bf16", bf16), ("fp32", fp32)), 0.0, 1.0)

    link = Link.model_validate({"bandwidth": "1GB/s", "latency": "1us"})
    mixed = device("slow-in-bf16", 0, 20e12, 20e12), device("slow-in-fp32", 0, 10e12, 300e12)
    cluster = Cluster("mixed", mixed, (link,), None, 0)
    layout = RankLayout((0,), replicas=2)
    assert stage_devices_for(cluster, layout, (1,), "fp32")[0].kind == "slow-in-fp32"
    assert stage_devices_for(cluster, layout, (1,), "bf16")[0].kind == "slow-in-bf16"
