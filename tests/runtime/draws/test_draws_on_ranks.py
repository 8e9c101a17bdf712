"""Every random draw on ranks is the unsplit model's: kinds of draws, and ways to run them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.model.draws import Draws, StageDraws
from pipecut.plan.folder import read_plan
from pipecut.runtime.checkpoint.export import export
from pipecut.runtime.launch.launch import launch
from tests.models.nothing_lost.drawing import KINDS, drawing, sequences
from tests.runtime.exact import exact_plan

JOB = """
model: {{factory: "tests.models.nothing_lost.drawing:drawing", args: {{kinds: [{kinds}]}}}}
inputs: "tests.models.nothing_lost.drawing:sequences"
batch: {{global: {samples}, microbatch: {microbatch}}}
optimizer: adamw
seed: 3
"""
# What is run, of: schedule, entries of the job file, samples, samples of a microbatch.
WAYS = {
    "2 stages": ("1f1b", "", 8, 2),
    "2 replicas": ("1f1b", "data_parallel: 2\n", 8, 2),
    "recomputed": ("gpipe", "recompute: always\n", 8, 2),
    "recomputed on 2 replicas": ("1f1b", "recompute: always\ndata_parallel: 2\n", 8, 2),
    "split backward": ("zb-h1", "", 8, 2),
    "recomputed with a split backward": ("zb-h1", "recompute: always\n", 8, 2),
    "five microbatches of one": ("1f1b", "", 5, 1),
    "last microbatch smaller": ("1f1b", "", 8, 3),
}


def job_of(kinds: Iterable[str], way: str) -> str:
    _, extra, samples, microbatch = WAYS[way]
    text = JOB.format(kinds=", ".join(kinds), samples=samples, microbatch=microbatch)
    return text + extra


def exact_way(folder: Path, kinds: Sequence[str], way: str, cluster: str) -> None:
    sizes = SizeOverrides(stages=2, schedule=WAYS[way][0])
    plan = exact_plan(folder, job_of(kinds, way), cluster, sizes)
    assert sum(len(stage.draws) for stage in plan.stages) >= len(kinds)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_draws_what_the_whole_model_draws(kind: str) -> None:
    torch.manual_seed(0)
    model, batch = drawing([kind] * 2).train(), sequences(2)
    whole = Draws(3)
    with torch.no_grad():
        with whole.at(1, 0):
            first = model(**batch)
        with StageDraws(3, range(1000)).at(1, 0):
            assert torch.equal(model(**batch), first)
        for step, microbatch in ((1, 1), (2, 0)):
            with whole.at(step, microbatch):
                assert not torch.equal(model(**batch), first)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_alone_is_exact(kind: str, slow_cores: str, tmp_path: Path) -> None:
    exact_way(tmp_path, [kind] * 4, "recomputed on 2 replicas", slow_cores)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_all_kinds_are_exact_each_way(way: str, slow_cores: str, tmp_path: Path) -> None:
    exact_way(tmp_path, list(KINDS), way, slow_cores)


@pytest.mark.slow
def test_a_resumed_training_draws_as_one_that_was_not_stopped(
    slow_cores: str, tmp_path: Path
) -> None:
    (tmp_path / "job.yaml").write_text(job_of(KINDS, "recomputed on 2 replicas"))
    plan = tmp_path / "plan"
    compile(tmp_path / "job.yaml", slow_cores, plan, Options(SizeOverrides(stages=2)))
    for name, ends in (("whole", (4,)), ("parts", (2, 4))):
        for steps in ends:
            more = ["--resume"] if steps > ends[0] else []
            given = ["--steps", str(steps), "--device", "cpu", "--checkpoint-every", "2"]
            given += ["--checkpoints", str(tmp_path / name), *more]
            launch(read_plan(plan).plan.ranks, "pipecut.runtime", [str(plan), *given])
        export(read_plan(plan).plan, tmp_path / name, tmp_path / f"{name}.safetensors")
    whole, parts = (load_file(str(tmp_path / f"{name}.safetensors")) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
