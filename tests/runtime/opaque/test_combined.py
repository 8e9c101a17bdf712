"""Opaque modules, autograd.Functions and choices by a value in one model, exact on ranks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.schedules.registry import SCHEDULES
from pipecut.compiler.trace.trace import trace
from pipecut.plan.folder import read_plan
from pipecut.runtime.checkpoint.export import export
from tests.runtime.checkpoint.test_checkpoint import train
from tests.runtime.exact import exact_plan

JOB = """
model: {{factory: "tests.models.own_functions:combined", args: {args}, opaque: ["layers.*.moe"]}}
inputs: "tests.models.opaque:tokens"
batch: {{global: 8, microbatch: 2}}
optimizer: adamw
"""
# More experts than a replica has tokens for: some get none, others on another replica.
MANY = "{experts: 40}"
TIED = "{experts: 40, tied: true}"
REPLICAS, SHARDED = "data_parallel: 2\n", "data_parallel: 2\nshard_optimizer: true\n"
BF16, RECOMPUTE = "precision: bf16\n", "recompute: always\n"
CELLS = {
    ("1f1b", TIED, SHARDED + BF16 + RECOMPUTE),
    ("gpipe", TIED, REPLICAS),
    ("gpipe", MANY, BF16 + RECOMPUTE),
    ("zb-h1", MANY, SHARDED + BF16),
    ("zb-h1", TIED, RECOMPUTE),
    ("interleaved", MANY, SHARDED + RECOMPUTE),
    ("interleaved", TIED, BF16),
    ("v-shaped", TIED, REPLICAS + BF16 + RECOMPUTE),
    ("v-shaped", MANY, SHARDED),
}


def test_all_three_are_in_one_graph(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB.format(args="{experts: 3, layers: 2}"))
    graph = trace(read_job(tmp_path / "job.yaml"))
    opaque = [o.opaque.module for o in graph.operators if o.opaque is not None]
    assert opaque == [f"layers.{number}.moe" for number in range(2)]
    assert sum(operator.target.endswith(".apply") for operator in graph.operators) == 3
    assert [check.choice.only_raises for check in graph.checks] == [True, False]


@pytest.mark.slow
@pytest.mark.parametrize("cell", sorted(CELLS))
def test_a_plan_computes_what_the_unsplit_model_does(
    cell: tuple[str, str, str], slow_cores: str, tmp_path: Path
) -> None:
    schedule, args, extra = cell
    stages_per_rank = SCHEDULES[schedule].stages_per_rank or 2
    sizes = SizeOverrides(
        stages=2 * stages_per_rank, schedule=schedule, stages_per_rank=stages_per_rank
    )
    exact_plan(tmp_path, JOB.format(args=args) + extra, slow_cores, sizes)


@pytest.mark.slow
def test_a_training_goes_on_on_replicas_and_another_schedule(
    slow_cores: str, tmp_path: Path
) -> None:
    job = tmp_path / "job.yaml"
    sizes: dict[str, Any] = {
        "one": SizeOverrides(stages=2),
        "other": SizeOverrides(stages=4, replicas=2, schedule="v-shaped"),
    }
    for name, size in sizes.items():
        job.write_text(JOB.format(args=TIED))
        compile(job, slow_cores, tmp_path / name, Options(size))
    train(tmp_path / "one", tmp_path / "whole", 6)
    train(tmp_path / "one", tmp_path / "parts", 3)
    train(tmp_path / "other", tmp_path / "parts", 6, "--resume")
    files = [tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"]
    for plan, file in zip(sizes, files, strict=True):
        export(read_plan(tmp_path / plan).plan, tmp_path / file.stem, file)
    whole, parts = (load_file(str(file)) for file in files)
    for name, tensor in whole.items():
        assert torch.allclose(tensor, parts[name], rtol=1e-4, atol=1e-6), name
