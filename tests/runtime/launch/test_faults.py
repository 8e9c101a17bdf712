"""A killed or stalled rank ends the others with one message; the result stays the same."""

import random
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.faults.kills import disturbed
from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.plan.folder import read_plan
from pipecut.runtime.checkpoint.export import export

STEPS = 60


@pytest.fixture
def plan(write_job: Any, slow_cores: str, tmp_path: Path) -> Path:
    compile(
        write_job("mlp", "vectors"), slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=2))
    )
    return tmp_path / "plan"


def command(plan: Path, folder: Path, *more: str) -> list[str]:
    run = [
        sys.executable,
        "-m",
        "pipecut",
        "run",
        str(plan),
        "--steps",
        str(STEPS),
        "--data",
        "tests.models.core:slow_vectors",
    ]
    return [*run, "--device", "cpu", "--checkpoints", str(folder), "--checkpoint-every", "5", *more]


def weights(plan: Path, folder: Path) -> dict[str, torch.Tensor]:
    file = folder / "model.safetensors"
    assert export(read_plan(plan).plan, folder, file).step == STEPS
    return load_file(str(file))


def test_three_kills_leave_the_result_as_it_was(plan: Path, tmp_path: Path) -> None:
    random.seed(0)
    calm = disturbed(command(plan, tmp_path / "calm"), 2, 0, (0, 0), tmp_path / "a")
    assert calm.code == 0, calm.output
    found = disturbed(
        command(plan, tmp_path / "killed", "--max-restarts", "3"), 2, 3, (0.05, 0.8), tmp_path / "b"
    )
    assert found.code == 0 and len(found.killed) == 3, found
    assert not found.orphans
    told = re.findall(r"rank \d was ended by SIGKILL [^;\n]*", found.output)
    assert len(told) == 3 and found.output.count("pipecut: ") == 6, found.output
    whole, after = weights(plan, tmp_path / "calm"), weights(plan, tmp_path / "killed")
    assert all(torch.equal(tensor, after[name]) for name, tensor in whole.items())


def test_a_lost_device_is_planned_around(write_job: Any, slow_cores: str, tmp_path: Path) -> None:
    two, plan = Path(slow_cores), tmp_path / "plan"
    two.write_text(two.read_text().replace("slow-core: 8}", "slow-core: 2}"))
    compile(write_job("mlp", "vectors"), slow_cores, plan, Options(SizeOverrides(stages=2)))
    options = "--max-restarts", "1", "--on-failure", "replan"
    found = disturbed(command(plan, tmp_path / "lost", *options), 2, 1, (0.5, 0.8), tmp_path / "a")
    assert found.code == 0, found.output
    calm = disturbed(command(plan, tmp_path / "calm"), 2, 0, (0, 0), tmp_path / "b")
    assert calm.code == 0, calm.output
    (other,) = tmp_path.glob("plan-without-*")
    assert len(read_plan(other).plan.stages) == 1
    whole, after = weights(plan, tmp_path / "calm"), weights(other, tmp_path / "lost")
    assert all(
        torch.allclose(tensor, after[name], rtol=1e-5, atol=1e-6) for name, tensor in whole.items()
    )


def test_a_rank_that_stands_still_is_named_and_ended(plan: Path, tmp_path: Path) -> None:
    begin = time.monotonic()
    stopping = disturbed(
        command(plan, tmp_path / "c", "--stall-timeout", "2"),
        2,
        1,
        (0.3, 0.3),
        tmp_path / "a",
        signal.SIGSTOP,
    )
    assert stopping.code == 4 and not stopping.orphans
    rank = stopping.killed[0].split()[1]
    assert f"rank {rank} has stood still for 2 s" in stopping.output, stopping.output
    assert "\n  rank 0: " in stopping.output and "\n  rank 1: " in stopping.output
    assert time.monotonic() - begin < 60


def test_restarts_without_checkpoints_are_refused(plan: Path, tmp_path: Path) -> None:
    run = [sys.executable, "-m", "pipecut", "run", str(plan), "--max-restarts", "1"]
    found = disturbed(run, 2, 0, (0, 0), tmp_path / "a")
    assert found.code == 2 and "--checkpoint-every" in found.output


def test_a_new_training_does_not_begin_among_anothers_checkpoints(
    plan: Path, tmp_path: Path
) -> None:
    (tmp_path / "old" / "step_00001000").mkdir(parents=True)
    (tmp_path / "old" / "step_00001000" / "checkpoint.json").write_text("{}")
    found = disturbed(command(plan, tmp_path / "old"), 2, 0, (0, 0), tmp_path / "a")
    assert (
        found.code == 4
        and "of an earlier run, the last one step_00001000; --resume" in found.output
    )
