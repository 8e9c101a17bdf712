"""Which device a rank takes, and which plans and host orders are refused; needs no GPU."""

from dataclasses import replace
from typing import Any

import pytest

from pipecut.device.local import LocalDevice
from pipecut.device.types import CPU, CUDA
from pipecut.errors import RunError
from pipecut.plan.schema import Plan, Source
from pipecut.runtime.ranks import devices
from pipecut.runtime.ranks.devices import (
    device_type_of,
    local_index,
    ranks_by_host,
    refuse_lost,
    refuse_other_device,
    refuse_shared,
    refuse_without_gpu,
    split_nodes,
    visible_devices,
)
from tests.plans import made_plan, made_stage

H100 = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def plan() -> Plan:
    """Four GPUs of two nodes."""
    fields = {"device": "h100-sxm", "device_type": "cuda", "device_bytes": 79 * 2**30}
    source = Source(
        job="job.yaml",
        cluster="gpus.yaml",
        available=4,
        devices=[0, 1, 2, 3],
        nodes=[0, 0, 1, 1],
        names={"h100-sxm": [H100]},
    )
    return made_plan(4, stages=[made_stage(n, 4, **fields) for n in range(4)], source=source)


def on(plan: Plan, **source: Any) -> Plan:
    """The plan with other facts about its devices."""
    assert plan.source is not None
    return plan.model_copy(update={"source": plan.source.model_copy(update=source)})


def test_a_lost_device_is_left_out(plan: Plan) -> None:
    assert visible_devices(plan, {}) == [{}] * 4
    after = on(plan, devices=[0, 2, 3, 4], lost=[1])
    assert visible_devices(after, {}) == [{"CUDA_VISIBLE_DEVICES": "0,2,3,4"}] * 4
    shown = {"CUDA_VISIBLE_DEVICES": "7,6,5,4,3"}
    assert visible_devices(after, shown) == [{"CUDA_VISIBLE_DEVICES": "7,5,4,3"}] * 4
    refuse_lost(plan, {})
    refuse_lost(after, visible_devices(after, {})[0])
    with pytest.raises(RunError, match="leaves out device 1 of its cluster; show each host's"):
        refuse_lost(after, {})
    with pytest.raises(
        RunError, match="for devices 0, 2, 3, 4 of 4, but CUDA_VISIBLE_DEVICES=0,1 shows 2"
    ):
        visible_devices(after, {"CUDA_VISIBLE_DEVICES": "0,1"})


def test_other_devices_are_refused(plan: Plan) -> None:
    refuse_other_device(plan, 1, LocalDevice(H100, 85_500_000_000))
    refuse_other_device(plan, 1, LocalDevice("H100 80GB HBM3", 85_500_000_000))
    with pytest.raises(
        RunError, match="rank 3: its device is a 'NVIDIA A100-SXM4-80GB', the plan has a h100"
    ):
        refuse_other_device(plan, 3, LocalDevice("NVIDIA A100-SXM4-80GB", 85_500_000_000))
    with pytest.raises(
        RunError, match=r"has 37.3 GiB, the plan counts on .* --node-rank, or with a rank file"
    ):
        refuse_other_device(plan, 3, LocalDevice(H100, 40_000_000_000))


def test_a_plan_of_two_types_is_refused(plan: Plan) -> None:
    mixed = made_plan(2, stages=[plan.stages[0], made_stage(1, 2)])
    with pytest.raises(RunError, match="stages on CPUs and on GPUs"):
        device_type_of(mixed, None)
    assert device_type_of(mixed, "cpu") is CPU
    assert device_type_of(plan, None) is CUDA


def test_hosts_other_than_the_plans_nodes_are_warned_of(plan: Plan) -> None:
    assert split_nodes(plan, ["a", "a", "b", "b"]) is None
    said = split_nodes(plan, ["a", "b", "c", "d"])
    assert (
        said is not None and "ranks 0 and 1 run on a and b, the plan has them on one node" in said
    )
    said = split_nodes(plan, ["a"] * 4)
    assert (
        said is not None and "ranks 1 and 2 run on host a, the plan has them on two nodes" in said
    )


@pytest.mark.parametrize(
    "environment, visible, index",
    [
        ({}, 1, 0),
        ({"LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "8"}, 8, 3),
        # Slurm and Ray show each process its own device.
        ({"LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "8", "CUDA_VISIBLE_DEVICES": "3"}, 1, 0),
        ({"LOCAL_RANK": "3", "CUDA_VISIBLE_DEVICES": "GPU-abc"}, 1, 0),
        ({"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "4,5"}, 2, 1),
        ({"LOCAL_RANK": "1"}, 1, None),
        ({"LOCAL_RANK": "2", "CUDA_VISIBLE_DEVICES": "4,5"}, 2, None),
    ],
)
def test_a_process_takes_its_own_of_the_visible_devices(
    environment: dict[str, str], visible: int, index: int | None
) -> None:
    if index is not None:
        assert local_index(CUDA, environment, visible) == index
        return
    with pytest.raises(RunError, match="needs GPU [12] of this machine"):
        local_index(CUDA, environment, visible)


def test_another_type_of_device_has_another_variable(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator = replace(CUDA, visible="SHOWN")
    assert local_index(accelerator, {"LOCAL_RANK": "3", "SHOWN": "3"}, 1) == 0
    with pytest.raises(RunError, match="needs GPU 2 of this machine, which, SHOWN=4,5 shows 2"):
        local_index(accelerator, {"LOCAL_RANK": "2", "SHOWN": "4,5"}, 2)
    with pytest.raises(RunError, match=r"to every process \(unset SHOWN\)"):
        refuse_shared(accelerator, ["x", "x"])
    with pytest.raises(RunError, match="to every process$"):
        refuse_shared(replace(CUDA, visible=None), ["x", "x"])
    monkeypatch.setattr(devices, "device_type_of", lambda plan, wanted: accelerator)
    after = on(plan, devices=[0, 2, 3, 4], lost=[1])
    refuse_lost(after, visible_devices(after, {})[0])
    with pytest.raises(RunError, match=r"the devices that remain \(SHOWN, for torchrun\)"):
        refuse_lost(after, {"CUDA_VISIBLE_DEVICES": "0,2,3,4"})


def test_a_type_that_is_none_is_refused(plan: Plan) -> None:
    with pytest.raises(RunError, match="device 'tpu': must be cpu or cuda"):
        device_type_of(plan, "tpu")


def test_two_ranks_of_one_device_are_refused() -> None:
    refuse_shared(CUDA, ["x of a", "y of a", "x of b"])
    with pytest.raises(RunError, match="ranks 1 and 2 both have the GPU y of a"):
        refuse_shared(CUDA, ["x of a", "y of a", "y of a"])


def test_a_rank_file_orders_hosts() -> None:
    assert ranks_by_host(["b", "b", "a", "a"], ["a", "b"]) == [2, 3, 0, 1]
    assert ranks_by_host(["a", "b", "a"], ["b", "a"]) == [1, 0, 2]
    with pytest.raises(RunError, match="c not listed; b listed but not there"):
        ranks_by_host(["a", "c"], ["a", "b"])


def test_a_plan_for_gpus_is_refused_before_any_rank_starts(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "is_available", lambda kind: kind.of_host)
    with pytest.raises(RunError, match="the plan is for h100-sxm, but this machine has no GPU"):
        refuse_without_gpu(plan, None)
    with pytest.raises(RunError, match="--device cuda asks for GPUs, but this machine has no GPU"):
        refuse_without_gpu(plan, "cuda")
    refuse_without_gpu(plan, "cpu")
    monkeypatch.setattr(devices, "is_available", lambda kind: True)
    refuse_without_gpu(plan, None)
