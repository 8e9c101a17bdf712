"""Opaque modules on ranks: exact under every schedule, and refused where they return otherwise."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipecut.compiler import SizeOverrides
from pipecut.compiler.schedules.registry import SCHEDULES
from pipecut.errors import RunError
from pipecut.model.draws import Draws
from pipecut.plan.schema import OpaqueModule, OpaqueResult
from pipecut.runtime.engine.opaque_modules import OpaqueModules, check_result
from pipecut.runtime.engine.weight_gradients import WeightGradStore
from tests.plans import made_stage
from tests.runtime.exact import exact_plan

JOB = """
model: {{factory: "tests.models.opaque:mixture", args: {args}, opaque: ["layers.*.moe"]}}
inputs: "tests.models.opaque:tokens"
batch: {{global: 8, microbatch: 2}}
optimizer: adamw
"""
ROWS = OpaqueModule(
    name="rows", results=[[OpaqueResult(shape=["2*batch", 4], dtype="float32")], []]
)


def test_a_result_of_another_size_ends_the_run() -> None:
    check_result(ROWS, [torch.zeros(6, 4)], sizes={"batch": 3})
    check_result(ROWS, [], sizes={"batch": 3})
    with pytest.raises(RunError, match=r"returned float32\[5, 4\], and .* float32\[6, 4\] or no t"):
        check_result(ROWS, [torch.zeros(5, 4)], sizes={"batch": 3})


def test_another_number_or_flag_ends_the_run() -> None:
    rows = [OpaqueResult(shape=["batch"], dtype="float32")]
    module = OpaqueModule(
        name="rows",
        results=[rows, rows],
        others=[
            ["int 2*batch", "bool True", "nesting (tensor, value, value)"],
            ["NoneType None", "nesting {'x': tensor, 'y': value}"],
        ],
    )
    check_result(module, (torch.zeros(3), 6, True), sizes={"batch": 3})
    check_result(module, {"x": torch.zeros(3), "y": None}, sizes={"batch": 3})
    with pytest.raises(
        RunError, match=r"returned .*, bool False, .* and .* numbers, flags or nesting depend"
    ):
        check_result(module, (torch.zeros(3), 6, False), sizes={"batch": 3})
    for other in ({"y": None, "x": torch.zeros(3)}, (torch.zeros(3), None), {"z": torch.zeros(3)}):
        with pytest.raises(RunError, match="nesting"):
            check_result(module, other, sizes={"batch": 3})
    with pytest.raises(RunError, match=r"int 5, bool True"):
        check_result(module, [torch.zeros(3), 5, True], sizes={"batch": 3})


def test_nothing_of_its_backward_comes_later() -> None:
    stage = nn.ModuleDict({"rows": nn.Linear(4, 4)})
    modules = OpaqueModules(made_stage(opaque=[ROWS]), stage, Draws(0))
    store = WeightGradStore()
    x = torch.randn(6, 4, requires_grad=True)
    with modules.running({"batch": 3}, store), store:
        stage["rows"](x).sum().backward()
    assert not store.weights and stage["rows"].weight.grad is not None
    assert not stage["rows"]._forward_hooks and not stage["rows"]._forward_pre_hooks


CELLS = {
    "1f1b": "",
    "gpipe, recompute": "recompute: always\n",
    "zb-h1, tied": "",
    "interleaved, bf16": "precision: bf16\n",
    "v-shaped": "",
    "1f1b, last microbatch smaller": "",
    "1f1b, replicas": "data_parallel: 2\n",
    "gpipe, ragged": "lengths: dynamic\nrecompute: always\n",
    "interleaved, ragged replicas": "lengths: dynamic\ndata_parallel: 2\n",
    "zb-h1, tied replicas": "data_parallel: 2\n",
    "interleaved, sharded bf16 replicas": (
        "data_parallel: 2\nshard_optimizer: true\nprecision: bf16\n"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
def test_a_plan_computes_what_the_unsplit_model_does(
    cell: str, slow_cores: str, tmp_path: Path
) -> None:
    schedule, _, extra = cell.partition(", ")
    args: Any = {"layers": 4, "tied": "tied" in extra}
    if "replicas" in extra:
        # More than a replica has tokens for: some get none, others on another replica.
        args |= {"experts": 40, "counting": False}
    text = JOB.format(args=args).replace("True", "true").replace("False", "false") + CELLS[cell]
    if "smaller" in extra:
        text = text.replace("microbatch: 2", "microbatch: 3")
    if "ragged" in extra:
        text = text.replace("opaque:tokens", "opaque:ragged")
    stages_per_rank = SCHEDULES[schedule].stages_per_rank or 2
    stages = 3 if stages_per_rank == 1 else 4
    sizes = SizeOverrides(stages=stages, schedule=schedule, stages_per_rank=stages_per_rank)
    plan = exact_plan(tmp_path, text, slow_cores, sizes, evaluation=True)
    assert sum(len(stage.opaque) for stage in plan.stages) == 4
    assert all(stage.passes is not None for stage in plan.stages)


KINDS = [
    *("backward", "gradient", "numpy", "chosen", "distinct", "functional", "packed"),
    *("checkpointed", "assigned", "drawn"),
]
ODD = """
model: {{factory: "tests.models.opaque:odd", args: {{kinds: [{kinds}]}}{opaque}}}
inputs: "tests.models.opaque:tokens"
batch: {{global: 8, microbatch: 2}}
"""


@pytest.mark.slow
def test_what_no_graph_can_hold_runs_as_it_is(slow_cores: str, tmp_path: Path) -> None:
    job = ODD.format(kinds=", ".join(KINDS), opaque="")
    plan = exact_plan(tmp_path, job, slow_cores, SizeOverrides(stages=3))
    opaque = {opaque.name for stage in plan.stages for opaque in stage.opaque}
    assert {f"blocks.{kind}" for kind in KINDS if kind != "functional"} <= opaque


@pytest.mark.slow
def test_a_buffer_that_is_assigned_goes_on_where_stages_recompute(
    slow_cores: str, tmp_path: Path
) -> None:
    job = ODD.format(kinds="assigned, numpy", opaque="") + "recompute: always\n"
    exact_plan(tmp_path, job, slow_cores, SizeOverrides(stages=2), evaluation=True)


@pytest.mark.slow
def test_hooks_of_an_opaque_module_run_once(slow_cores: str, tmp_path: Path) -> None:
    job = ODD.format(kinds="hooked, numpy", opaque=', opaque: ["blocks.hooked"]')
    exact_plan(tmp_path, job, slow_cores, SizeOverrides(stages=2), evaluation=True)


@pytest.mark.slow
def test_a_single_tensor_comes_beside_a_flag_and_a_number(slow_cores: str, tmp_path: Path) -> None:
    text = ODD.format(kinds="", opaque=', opaque: ["chosen"]').replace(
        "opaque:tokens", "opaque:rows"
    )
    job = text.replace(":odd", ":flagging").replace("args: {kinds: []}, ", "")
    plan = exact_plan(tmp_path, job, slow_cores, SizeOverrides(stages=2))
    returned = ["bool True", "int 2*batch", "nesting (tensor, value, value)"]
    assert [m.others for s in plan.stages for m in s.opaque] == [[returned]]
