"""The memory that is predicted is what operators allocate, to the byte but for a few scalars."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.compiler.schedules.registry import SCHEDULES
from pipecut.errors import PlanError
from pipecut.plan.check.check import check
from pipecut.plan.replay.memory import memory_curve
from pipecut.runtime.launch.launch import launch

# Losses, weights of samples and the optimizer's step counts.
SCALARS = 0.005
SHARDED = "data_parallel: 2\nshard_optimizer: true\n"


@pytest.mark.parametrize(
    ("model", "inputs", "loss", "schedule", "extra"),
    [
        pytest.param("gpt2", "tokens", None, "1f1b", "", marks=pytest.mark.slow),
        ("resnet", "images", None, "gpipe", ""),
        ("unet", "unet_inputs", "unet_loss", "1f1b", ""),
        ("mlp", "vectors", None, "1f1b", "recompute: always\n"),
        pytest.param("gpt2", "tokens", None, "zb-h1", "", marks=pytest.mark.slow),
        pytest.param("resnet", "images", None, "interleaved", "", marks=pytest.mark.slow),
        pytest.param("gpt2", "tokens", None, "v-shaped", "", marks=pytest.mark.slow),
        pytest.param("gpt2", "tokens", None, "1f1b", "precision: bf16\n", marks=pytest.mark.slow),
        ("gpt2", "tokens", None, "1f1b", SHARDED + "precision: bf16\n"),
        pytest.param("gpt2", "tokens", None, "zb-h1", SHARDED, marks=pytest.mark.slow),
    ],
)
def test_the_peak_is_what_the_allocations_of_a_run_say(
    model: str,
    inputs: str,
    loss: str | None,
    schedule: str,
    extra: str,
    write_job: Any,
    slow_cores: str,
    tmp_path: Path,
) -> None:
    stages = 2 * (SCHEDULES[schedule].stages_per_rank or 2)
    sizes = SizeOverrides(stages=stages, schedule=schedule)
    folder = compile(
        write_job(model, inputs, loss, extra), slow_cores, tmp_path / "plan", Options(sizes)
    )
    options = ["--steps", "2", "--device", "cpu", "--report", str(tmp_path / "r.json")]
    launch(folder.plan.ranks, "pipecut.runtime", [str(tmp_path / "plan"), *options])
    report = json.loads((tmp_path / "r.json").read_text())
    for expected, found in zip(report["predicted"], report["measured"], strict=True):
        assert expected["memory"] == pytest.approx(found["memory"], rel=SCALARS)
    for pipeline_rank, actions in enumerate(folder.actions):
        curve = memory_curve(folder.plan, actions, pipeline_rank)
        stage = next(s for s in folder.plan.stages if s.pipeline_rank == pipeline_rank)
        assert curve is not None and curve.peak == stage.peak_bytes


def test_a_step_that_takes_more_than_the_device_has_is_refused(
    write_job: Any, slow_cores: str, tmp_path: Path
) -> None:
    folder = compile(
        write_job("mlp", "vectors"), slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=2))
    )
    first = folder.plan.stages[0].model_copy(
        update={"device_bytes": folder.plan.stages[0].peak_bytes - 1}
    )
    plan = folder.plan.model_copy(update={"stages": [first, *folder.plan.stages[1:]]})
    with pytest.raises(PlanError, match="rank 0: a step takes .* set a larger reserve"):
        check(type(folder)(folder.path, plan, folder.actions, folder.graph))


def test_a_reserve_too_small_for_what_the_replay_shows_is_raised(
    write_job: Any, slow_cores: str, tmp_path: Path
) -> None:
    # With every microbatch in flight, recompute makes the room that is missing.
    job, options = write_job("mlp", "vectors"), Options(SizeOverrides(stages=2, schedule="gpipe"))
    stages = compile(job, slow_cores, tmp_path / "roomy", options).plan.stages
    most = max(stages, key=lambda s: s.peak_bytes)
    assert most.peak_bytes > most.memory_bytes
    tight = Path(slow_cores)
    tight.write_text(tight.read_text().replace("memory: 4GiB", f"memory: {most.peak_bytes - 1}B"))
    plan = compile(job, slow_cores, tmp_path / "tight", options).plan
    assert all(s.peak_bytes <= s.device_bytes for s in plan.stages)
    assert any("the reserve was raised" in note for note in plan.notes)
