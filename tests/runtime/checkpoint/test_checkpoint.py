"""A training continues from a checkpoint on any plan of the model; damage is reported."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.errors import RunError
from pipecut.plan.folder import read_plan
from pipecut.runtime.checkpoint import folder as checkpoint_folder
from pipecut.runtime.checkpoint.export import export
from pipecut.runtime.checkpoint.manifest import read_manifest
from pipecut.runtime.launch.launch import launch


@pytest.mark.slow
def test_rows_of_parameters_are_divided_anew_for_other_replicas(
    write_job: Any, slow_cores: str, tmp_path: Path
) -> None:
    # Three and four replicas can share twelve microbatches of one; three do not divide 64 rows.
    job = write_job("gpt2", "tokens", extra="shard_optimizer: true\n")
    job.write_text(job.read_text().replace("global: 8, microbatch: 2", "global: 12, microbatch: 1"))
    for replicas in (1, 3, 4):
        compile(
            job,
            slow_cores,
            tmp_path / str(replicas),
            Options(SizeOverrides(stages=2, replicas=replicas)),
        )
    train(tmp_path / "1", tmp_path / "whole", 9)
    for replicas, steps, more in ((3, 3, ()), (4, 6, ("--resume",)), (1, 9, ("--resume",))):
        train(tmp_path / str(replicas), tmp_path / "parts", steps, *more)
    for name in ("whole", "parts"):
        export(read_plan(tmp_path / "1").plan, tmp_path / name, tmp_path / f"{name}.safetensors")
    whole, parts = (load_file(str(tmp_path / f"{name}.safetensors")) for name in ("whole", "parts"))
    assert all(
        torch.allclose(tensor, parts[name], rtol=1e-4, atol=1e-5) for name, tensor in whole.items()
    )


def train(plan: Path, folder: Path, steps: int, *more: str) -> None:
    ranks = read_plan(plan).plan.ranks
    options = [
        "--steps",
        str(steps),
        "--device",
        "cpu",
        "--checkpoints",
        str(folder),
        "--checkpoint-every",
        "3",
        *more,
    ]
    launch(ranks, "pipecut.runtime", [str(plan), *options])


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        ("mlp", "vectors"),
        pytest.param("gpt2", "tokens", marks=pytest.mark.slow),
        pytest.param("resnet", "images", marks=pytest.mark.slow),
    ],
)
def test_a_training_goes_on_with_another_number_of_stages(
    model: str, inputs: str, write_job: Any, slow_cores: str, tmp_path: Path
) -> None:
    job = write_job(model, inputs)
    for stages in (2, 3):
        compile(job, slow_cores, tmp_path / f"plan{stages}", Options(SizeOverrides(stages=stages)))
    train(tmp_path / "plan2", tmp_path / "whole", 6)
    train(tmp_path / "plan2", tmp_path / "parts", 3)
    train(tmp_path / "plan3", tmp_path / "parts", 6, "--resume")
    files = []
    for name, plan in (("whole", "plan2"), ("parts", "plan3")):
        files.append(tmp_path / f"{name}.safetensors")
        step = export(read_plan(tmp_path / plan).plan, tmp_path / name, files[-1]).step
        assert step == 6
    whole, parts = (load_file(str(file)) for file in files)
    assert whole.keys() == parts.keys()
    for name, tensor in whole.items():
        # Adam makes whole steps of what is rounding noise in a gradient that should be zero.
        assert torch.allclose(tensor.double(), parts[name].double(), rtol=1e-4, atol=1e-5), name
    from tests.models import core as models

    torch.manual_seed(0)
    getattr(models, model)().load_state_dict(parts, strict=True)


@pytest.mark.parametrize(
    ("schedule", "state"),
    [
        ("v-shaped", "true"),
        pytest.param("v-shaped", "false", marks=pytest.mark.slow),
        pytest.param("1f1b", "false", marks=pytest.mark.slow),
    ],
)
def test_a_training_goes_on_on_replicas_and_another_schedule(
    schedule: str, state: str, write_job: Any, slow_cores: str, tmp_path: Path
) -> None:
    job = write_job("dropping", "vectors")
    compile(job, slow_cores, tmp_path / "one", Options(SizeOverrides(stages=2)))
    job = write_job("dropping", "vectors", extra=f"shard_optimizer: {state}\n")
    sizes = SizeOverrides(stages=4 if schedule == "v-shaped" else 2, replicas=2, schedule=schedule)
    compile(job, slow_cores, tmp_path / "other", Options(sizes))
    train(tmp_path / "one", tmp_path / "whole", 6)
    train(tmp_path / "one", tmp_path / "parts", 3)
    train(tmp_path / "other", tmp_path / "parts", 6, "--resume")
    files = [tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"]
    for plan, file in zip(("one", "other"), files, strict=True):
        export(read_plan(tmp_path / plan).plan, tmp_path / file.stem, file)
    whole, parts = (load_file(str(file)) for file in files)
    assert all(
        torch.allclose(tensor, parts[name], rtol=1e-4, atol=1e-6) for name, tensor in whole.items()
    )


@pytest.fixture
def saved(write_job: Any, slow_cores: str, tmp_path: Path) -> Path:
    """Two checkpoints of a small training on one rank."""
    compile(
        write_job("mlp", "vectors"), slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=1))
    )
    train(tmp_path / "plan", tmp_path / "saved", 6)
    return tmp_path / "saved"


def test_what_is_damaged_is_told_and_the_one_before_is_whole(
    saved: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert [read_manifest(one).step for one in checkpoint_folder.checkpoints(saved)] == [
        3,
        6,
    ]
    file = saved / "step_00000006" / "rank_0.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(RunError):
        train(tmp_path / "plan", saved, 9, "--resume")
    assert (
        f"{file} is not as it was written; remove {file.parent} to go on" in capfd.readouterr().err
    )
    for path in sorted(file.parent.iterdir()):
        path.unlink()
    file.parent.rmdir()
    train(tmp_path / "plan", saved, 9, "--resume")
    assert "going on after step 3" in capfd.readouterr().out
    assert checkpoint_folder.latest(saved) == saved / "step_00000009"
