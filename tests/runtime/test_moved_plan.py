"""A plan and its code, moved to another folder, run there; no file of it says where it was made."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipecut.compiler import Options, SizeOverrides, compile

ROOT = Path(__file__).parents[2]
MODEL = """
import torch
from torch import nn

class Wide(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(width, width) for _ in range(2)))

    def forward(self, x):
        return self.layers(x).square().mean()

def build(width):
    return Wide(width)

def inputs(samples):
    return {"x": torch.ones(samples, 4)}
"""
JOB = """
model: {factory: "moved_model:build", args: {width: 4}}
inputs: "moved_model:inputs"
batch: {global: 4, microbatch: 2}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, its job and the plan of it, at another place than it was compiled."""
    made = tmp_path / "made"
    (made / "jobs").mkdir(parents=True)
    (made / "jobs" / "moved_model.py").write_text(MODEL)
    (made / "jobs" / "job.yaml").write_text(JOB)
    monkeypatch.chdir(made)
    options = Options(SizeOverrides(stages=1), costs="roofline")
    compile(made / "jobs" / "job.yaml", "auto", made / "plan", options)
    monkeypatch.chdir(tmp_path)
    return Path(shutil.move(made, tmp_path / "moved"))


def pipecut(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A command run in a folder, by a user who trusts the plan."""
    return subprocess.run(
        [sys.executable, "-m", "pipecut", *map(str, arguments), "--trust"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_moved_together_or_with_the_code_named_a_plan_runs(project: Path) -> None:
    elsewhere = project.parent / "elsewhere"
    elsewhere.mkdir()
    places = (str(project.parent), str(ROOT), sys.prefix, str(Path.home()))
    for file in (file for file in (project / "plan").rglob("*") if file.is_file()):
        text = file.read_bytes().decode("utf-8", errors="replace")
        assert not [place for place in places if place in text], file
    verified = pipecut(elsewhere, "verify", project / "plan", "--steps", "1")
    assert verified.returncode == 0, verified.stderr

    plan = shutil.move(project / "plan", elsewhere / "plan")
    lost = pipecut(elsewhere, "run", plan, "--steps", "1")
    assert lost.returncode == 2 and "moved_model:inputs' is not here" in lost.stderr
    assert "give --code" in lost.stderr and "Traceback" not in lost.stderr
    run = pipecut(elsewhere, "run", plan, "--steps", "1", "--code", project)
    assert run.returncode == 0, run.stderr
