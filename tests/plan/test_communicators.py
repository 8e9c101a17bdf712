"""What NCCL takes of a GPU is counted where there is one, and nowhere else."""

import pytest
import torch

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.device.types import CUDA
from pipecut.errors import PlanError
from pipecut.model.optimizer import fusible, make_optimizer
from pipecut.plan.check.check import check
from pipecut.plan.communicators import (
    BYTES_PER_CTA,
    CHANNEL_CTAS,
    SUM_CTAS,
    buffer_bytes,
)
from pipecut.plan.folder import PlanFolder, read_plan
from pipecut.plan.replay.memory import outside_bytes
from pipecut.plan.schema import Optimizer
from pipecut.runtime.health.timeouts import transfer_timeout
from pipecut.runtime.ranks.communicator_options import options_for

CLUSTER = """name: four
nodes: [{devices: {gpu: 4}, link: nvlink4}]
devices: {gpu: {memory: 8GiB, bandwidth: 1TB/s, flops: {fp32: 1GFLOP/s}, source: made up}}
reserve: 2GiB
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> PlanFolder:
    folder = tmp_path_factory.mktemp("communicators")
    (folder / "job.yaml").write_text(
        'model: {factory: "tests.models.core:mlp"}\n'
        'inputs: "tests.models.core:vectors"\n'
        "batch: {global: 8, microbatch: 2}\n"
    )
    (folder / "cluster.yaml").write_text(CLUSTER)
    sizes = SizeOverrides(stages=2, replicas=2)
    compile(
        folder / "job.yaml",
        str(folder / "cluster.yaml"),
        folder / "plan",
        Options(sizes, costs="roofline"),
    )
    return read_plan(folder / "plan")


def test_a_receiver_has_the_buffers_of_a_channel() -> None:
    assert buffer_bytes("channel", (3, 5), 5) == CHANNEL_CTAS * BYTES_PER_CTA
    assert buffer_bytes("channel", (3, 5), 3) == buffer_bytes("channel", (3, 5), 4) == 0
    # What an H100 has by default.
    assert 0.28 < buffer_bytes("replicas", (0, 1), 0) / 2**30 < 0.31


def test_a_gpu_has_less_room_for_tensors_by_what_its_groups_take(plan: PlanFolder) -> None:
    # It receives from its neighbour, sums over replicas, and over all ranks.
    expected = CUDA.context_bytes + (CHANNEL_CTAS + SUM_CTAS + SUM_CTAS) * BYTES_PER_CTA
    assert [stage.outside_bytes for stage in plan.plan.stages] == [expected, expected]
    assert outside_bytes(plan.plan, 0) == expected
    assert all(
        stage.peak_bytes + stage.outside_bytes <= stage.device_bytes for stage in plan.plan.stages
    )


def test_a_plan_that_counts_too_little_is_refused(plan: PlanFolder) -> None:
    stages = [stage.model_copy(update={"outside_bytes": 0}) for stage in plan.plan.stages]
    edited = PlanFolder(
        plan.path, plan.plan.model_copy(update={"stages": stages}), plan.actions, plan.graph
    )
    with pytest.raises(PlanError, match="context and communicators"):
        check(edited)


def test_a_cpu_has_none_of_it(plan: PlanFolder) -> None:
    stages = [stage.model_copy(update={"device_type": "cpu"}) for stage in plan.plan.stages]
    assert outside_bytes(plan.plan.model_copy(update={"stages": stages}), 1) == 0
    assert options_for("channel", torch.device("cpu"), transfer_timeout()) is None


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "adamw"])
def test_a_cpus_optimizer_is_torchs_default(name: str) -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    assert not fusible(parameter)
    group = make_optimizer(Optimizer(name=name), [("w", parameter)], 0.1).param_groups[0]
    assert not group["fused"] and group["lr"] == 0.1
