"""Only the same training continues from a checkpoint; any difference is refused or reported."""

import json
import logging
import math
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.fuzz.files import mutate
from pipecut.cli import app
from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.errors import CheckpointError, DivergedError, PipecutError, RunError, UserFileError
from pipecut.plan.folder import file_hash, seal_of
from pipecut.plan.part.read import PlanPart, read_part
from pipecut.plan.schema import Optimizer
from pipecut.runtime.checkpoint import folder as checkpoint_folder
from pipecut.runtime.checkpoint import hosts, writing
from pipecut.runtime.checkpoint import lock as folder_lock
from pipecut.runtime.checkpoint.export import export
from pipecut.runtime.checkpoint.manifest import (
    MANIFEST,
    VERSION,
    Elsewhere,
    Manifest,
    TrainingState,
    read_manifest,
)
from pipecut.runtime.checkpoint.rank_tensors import RankTensors
from pipecut.runtime.checkpoint.reading import WantedRows, read_tensors
from pipecut.runtime.checkpoint.stopping import Stopping
from pipecut.runtime.engine.recorder import FIRST, LAST, Measured
from pipecut.runtime.pipeline import Pipeline
from pipecut.runtime.ranks.world import join_world
from pipecut.runtime.training.data import batches
from pipecut.runtime.training.training import Training, TrainingOptions
from pipecut.writable import writable_file, writable_folder
from tests.conftest import SLOW_CORES

JOB = """
model: {{factory: "tests.models.core:mlp", args: {{depth: {depth}}}}}
inputs: "tests.models.core:vectors"
batch: {{global: 8, microbatch: 2}}
"""
DATA = "tests.models.checkpoint"


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[int, PlanPart]:
    """Plans of one rank, by the model's depth."""
    folder = tmp_path_factory.mktemp("plans")
    (folder / "cores.yaml").write_text(SLOW_CORES)
    found = {}
    for depth in (3, 4):
        (folder / f"{depth}.yaml").write_text(JOB.format(depth=depth))
        path = folder / str(depth)
        compile(
            folder / f"{depth}.yaml",
            str(folder / "cores.yaml"),
            path,
            Options(SizeOverrides(stages=1)),
        )
        found[depth] = read_part(path, 0)
    return found


def pipeline(part: PlanPart, **changed: Any) -> Pipeline:
    """The plan's, with some of its entries changed."""
    plan = part.plan.model_copy(update=changed)
    return Pipeline(replace(part, plan=plan), join_world(plan, "cpu"))


def train(folder: PlanPart, where: Path, steps: int, **wishes: Any) -> Training:
    """Train in this process, with a checkpoint every three steps."""
    changed = wishes.pop("changed", {})
    data = wishes.pop("data", "steady")
    usual = {"rate": None, "clip": None, "checkpoint_every": 3, "keep": 3, "resume": False}
    training = Training(
        pipeline(folder, **changed), TrainingOptions(steps, folder=where, **{**usual, **wishes})
    )
    training.run(f"{DATA}:{data}" if data else None, folder.path)
    return training


@pytest.fixture(scope="module")
def written(plans: dict[int, PlanPart], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoints after steps 3 and 6."""
    folder = tmp_path_factory.mktemp("written") / "saved"
    train(plans[4], folder, 6)
    return folder


@pytest.fixture
def trained(written: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(written, tmp_path / "saved")


def values_of(pipe: Pipeline) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in pipe.named_parameters()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def test_a_model_with_some_of_the_parameters_is_refused(
    plans: dict[int, PlanPart], trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        CheckpointError, match=r"of another model.*has parameter .* the model of .* has not"
    ):
        train(plans[3], trained, 9, resume=True)
    with pytest.raises(CheckpointError, match="of another model"):
        export(plans[3].plan, trained, tmp_path / "model.safetensors")
    train(plans[3], tmp_path / "other", 3)
    with pytest.raises(CheckpointError, match="has no parameter"):
        train(plans[4], tmp_path / "other", 6, resume=True)


def test_another_optimizer_is_refused(
    plans: dict[int, PlanPart], trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="with the optimizer AdamW, this one has Adam"):
        train(plans[4], trained, 9, resume=True, changed={"optimizer": Optimizer(name="adam")})
    # Both are torch's SGD.
    train(plans[4], tmp_path / "sgd", 3, changed={"optimizer": Optimizer(name="sgd")})
    with pytest.raises(CheckpointError, match="with the optimizer sgd, this one has momentum"):
        train(
            plans[4],
            tmp_path / "sgd",
            6,
            resume=True,
            changed={"optimizer": Optimizer(name="momentum")},
        )


def test_a_users_own_optimizer_takes_up_only_what_is_its_own(
    plans: dict[int, PlanPart], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = pipeline(plans[4])
    named = dict(pipe.named_parameters())
    weights = [p for name, p in named.items() if name.endswith("weight")]
    biases = [p for name, p in named.items() if name.endswith("bias")]

    def made(decay: float, swapped: bool = False, **more: Any) -> torch.optim.Optimizer:
        groups = [
            {"params": weights, "weight_decay": decay},
            {"params": biases, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups[::-1] if swapped else groups, **more)

    optimizer = made(0.1)
    pipe.step(**next(batches(pipe, None, plans[4].path)))
    optimizer.step()
    pipe.save(tmp_path, optimizer, step=1)
    with pytest.raises(
        CheckpointError, match="is in group 0 of the optimizer, in the checkpoint in group 1"
    ):
        pipe.restore(tmp_path, made(0.1, swapped=True))
    with pytest.raises(CheckpointError, match="amsgrad is True, in the checkpoint False"):
        pipe.restore(tmp_path, made(0.1, amsgrad=True))
    with pytest.raises(CheckpointError, match="has 1 parameter groups, the checkpoint 2"):
        pipe.restore(tmp_path, torch.optim.AdamW(pipe.parameters()))
    with caplog.at_level(logging.WARNING):
        other = made(0.2, fused=True)
        pipe.restore(tmp_path, other)
    assert "weight_decay is 0.1, as in the checkpoint, not 0.2" in caplog.text
    # How a step is done is a matter of the device.
    assert other.param_groups[0]["weight_decay"] == 0.1 and other.param_groups[0]["fused"]


def test_a_learning_rate_that_is_given_is_obeyed_and_one_that_is_not_goes_on(
    plans: dict[int, PlanPart], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(plans[4], tmp_path, 3, rate=0.01, clip=0.5)
    training = train(plans[4], tmp_path, 6, resume=True)
    assert "learning rate of 0.01, gradients clipped to 0.5" in capsys.readouterr().out
    assert training.pipe.saving.recipe["clip"] == 0.5
    training = train(plans[4], tmp_path, 9, resume=True, rate=0.02, clip=0.0)
    assert "learning rate of 0.02 as given, not 0.01" in capsys.readouterr().out
    assert training.pipe.saving.recipe["clip"] == 0.0
    groups = read_manifest(checkpoint_folder.latest(tmp_path) or tmp_path).groups
    assert groups[0].options["lr"] == 0.02


def test_what_changed_is_said(
    plans: dict[int, PlanPart], trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plans[4].plan
    model = plan.model.model_copy(update={"seed": 5, "factory": "tests.models.checkpoint:other"})
    batch = plan.batch.model_copy(update={"global_size": 4})
    with caplog.at_level(logging.WARNING):
        train(
            plans[4], trained, 6, resume=True, data=None, changed={"model": model, "batch": batch}
        )
    for change in (
        "seed is 5, it was 0",
        "the model's factory is tests.models.checkpoint:other, it was tests.models.core:mlp",
        "the global batch is 4, it was 8",
        f"--data is not given, it was {DATA}:steady",
    ):
        assert change in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        train(plans[4], trained, 6, resume=True)
    assert not caplog.text


def test_going_back_sets_later_checkpoints_aside(
    plans: dict[int, PlanPart], trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(plans[4], trained, 12, resume=True, keep=2)
    assert names(trained) == ["step_00000009", "step_00000012"]
    with caplog.at_level(logging.WARNING):
        training = train(
            plans[4], trained / "step_00000009", 11, resume=True, keep=2, checkpoint_every=1
        )
    assert training.begun == 9
    assert "checkpoints after step 9 are set aside as aside_step_00000012" in caplog.text
    # What is set aside neither counts nor wins.
    assert names(trained) == ["aside_step_00000012", "step_00000010", "step_00000011"]
    assert train(plans[4], trained, 12, resume=True).begun == 11


def facts(step: int, **more: Any) -> Manifest:
    return Manifest(VERSION, step, {}, {}, {}, [], more.pop("training", TrainingState()), **more)


def test_a_loss_that_is_no_number_ends_the_training_before_it_is_learned(
    plans: dict[int, PlanPart], tmp_path: Path
) -> None:
    with pytest.raises(
        DivergedError, match=r"step 6: the loss is nan.*--resume goes on from .*step_00000003"
    ):
        train(plans[4], tmp_path, 9, data="diverging")
    assert names(tmp_path) == ["step_00000003"]


def test_a_training_that_is_asked_to_stop_keeps_the_step_it_has_done(
    plans: dict[int, PlanPart], tmp_path: Path
) -> None:
    stopping = Stopping(0, 1)
    stopping.asked = 1.0
    training = Training(pipeline(plans[4]), TrainingOptions(9, None, None, tmp_path, 3, 3, False))
    training.run(f"{DATA}:steady", plans[4].path, stopping)
    assert training.stopped and names(tmp_path) == ["step_00000001"]
    parts = train(plans[4], tmp_path, 4, resume=True)
    whole = train(plans[4], tmp_path / "whole", 4)
    assert all(
        torch.equal(value, values_of(parts.pipe)[name])
        for name, value in values_of(whole.pipe).items()
    )


def test_a_checkpoint_of_a_users_loop_says_that_it_diverged(
    plans: dict[int, PlanPart], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = pipeline(plans[4])
    pipe.save(tmp_path, step=1, keep=1)
    next(iter(pipe.parameters())).data[0] = math.inf
    with caplog.at_level(logging.WARNING):
        pipe.save(tmp_path, step=2, keep=1)
    assert "checkpoint of step 2: parameter" in caplog.text and "no finite numbers" in caplog.text
    assert names(tmp_path) == ["step_00000001", "step_00000002"]
    with pytest.raises(CheckpointError, match="had diverged; move it out of the folder"):
        pipe.restore(tmp_path)
    with pytest.raises(CheckpointError, match="had diverged"):
        export(plans[4].plan, tmp_path, tmp_path / "model.safetensors")
    assert pipe.restore(tmp_path / "step_00000001") == 1
    assert all(bool(torch.isfinite(p).all()) for p in pipe.parameters())


def test_float16_leaves_out_a_step_that_overflows_and_ends_when_it_goes_on(
    plans: dict[int, PlanPart], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = Training(pipeline(plans[4]), TrainingOptions(3, None, None, tmp_path, 0, 1, False))
    training.pipe.scale.used = True
    for _ in range(19):
        training._check_finite(5, math.inf)
    assert capsys.readouterr().out.count("the step is left out") == 1
    with pytest.raises(DivergedError, match="step 6: the loss is inf"):
        training._check_finite(5, math.inf)
    training._check_finite(6, 1.0)
    assert training.overflows == 0


def test_a_second_run_in_a_folder_is_refused(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipecut.runtime.checkpoint.lock import hold; "
        "hold(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    held = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert held.stdout is not None and held.stdout.readline() == "held\n"
    try:
        with pytest.raises(
            CheckpointError, match=rf"in use by another run \(process {held.pid} on "
        ):
            folder_lock.hold(tmp_path, patience=0.0)
    finally:
        held.kill()
        held.communicate()
    # A lock goes with its process.
    folder_lock.refuse_locked(tmp_path)


def test_places_that_cannot_be_written_are_said_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(
        UserFileError, match=r"--save .*weights cannot be written: .*; name another place"
    ):
        writable_folder(tmp_path / "file" / "weights", "--save")
    for path in (tmp_path, tmp_path / "file" / "report.json"):
        with pytest.raises(UserFileError, match="--report .* cannot be written"):
            writable_file(path, "--report")
    with pytest.raises(CheckpointError, match="--checkpoints takes another folder"):
        folder_lock.hold(tmp_path / "file" / "saved")
    writable_file(tmp_path / "file", "--report")
    writable_file(tmp_path / "new" / "report.json", "--report")
    assert (tmp_path / "file").read_text() == "kept" and not list((tmp_path / "new").iterdir())


def test_a_launcher_refuses_what_it_cannot_write_before_ranks_start(
    plans: dict[int, PlanPart], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    wrong = str(tmp_path / "file" / "below")
    for option in ("--save", "--report", "--trace", "--checkpoints"):
        command = [
            "run",
            str(plans[4].path),
            "--checkpoints",
            str(tmp_path / "saved"),
            "--checkpoint-every",
            "1",
            option,
            wrong,
        ]
        with pytest.raises(UserFileError, match=f"{option} .* cannot be written"):
            app(command, standalone_mode=False)


def edited(path: Path, change: Any) -> None:
    """Change what a checkpoint says, as who knows its format could."""
    file = path / MANIFEST
    data = json.loads(file.read_text())
    change(data)
    del data["seal"]
    file.write_text(json.dumps({**data, "seal": seal_of(data)}))


def rewritten(path: Path, change: Any) -> None:
    """Change a rank's tensors, hash and all."""
    file = path / "rank_0.safetensors"
    tensors = load_file(str(file))
    change(tensors)
    save_file(tensors, str(file))
    edited(path, lambda data: data["files"].update({file.name: file_hash(file)}))


def first_of(tensors: dict[str, torch.Tensor], kind: str) -> str:
    return next(name for name in sorted(tensors) if name.startswith(kind))


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (
            "parameter/",
            lambda t: t.to(torch.int8),
            r"parameter \S+ is torch.float32, in the checkpoint torch.int8",
        ),
        (
            "parameter/",
            lambda t: t * math.nan,
            r"parameter \S+ has values that are no finite numbers",
        ),
        ("parameter/", lambda t: t[:-1], r"parameter \S+ is \[.*\], in the checkpoint \["),
        ("optimizer/exp_avg/", lambda t: t * math.inf, "optimizer exp_avg.* no finite numbers"),
        ("optimizer/exp_avg/", lambda t: t[:1], r"exp_avg of \S+ is torch.float32\[.*of shape"),
        ("optimizer/step/", lambda t: t.to(torch.int64), "step of .* needs floating-point numbers"),
        ("random/", lambda t: t[:100], "random of rank 0 is torch.uint8.* no state of a generator"),
    ],
)
def test_values_of_another_kind_are_refused(
    plans: dict[int, PlanPart], trained: Path, kind: str, value: Any, said: str
) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        name = first_of(tensors, kind)
        tensors[name] = value(tensors[name]).contiguous()

    rewritten(trained / "step_00000006", change)
    with pytest.raises(CheckpointError, match=said):
        train(plans[4], trained, 9, resume=True)


def test_options_out_of_range_are_refused(plans: dict[int, PlanPart], trained: Path) -> None:
    edited(
        trained / "step_00000006",
        lambda data: data["groups"][0]["options"].update(betas=[0.9, 9.99]),
    )
    with pytest.raises(CheckpointError, match="AdamW refuses the options it has: Invalid beta"):
        train(plans[4], trained, 9, resume=True)


def test_half_precision_is_taken_for_full(plans: dict[int, PlanPart], trained: Path) -> None:
    path = trained / "step_00000006"
    name = first_of(load_file(str(path / "rank_0.safetensors")), "parameter/")
    rewritten(path, lambda tensors: tensors.update({name: tensors[name].bfloat16()}))
    pipe = pipeline(plans[4])
    pipe.restore(trained)
    value = load_file(str(path / "rank_0.safetensors"))[name]
    assert torch.equal(values_of(pipe)[name.removeprefix("parameter/")].detach(), value.float())


def test_no_flipped_bit_of_what_a_checkpoint_says_goes_unseen(
    trained: Path, tmp_path: Path
) -> None:
    file = trained / "step_00000006" / MANIFEST
    whole, rng = file.read_bytes(), random.Random(0)
    meant = json.loads(whole)
    for _ in range(300):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(bytes(data))
        try:
            read = read_manifest(file.parent)
        except CheckpointError as error:
            assert str(file.parent) in str(error)
        else:
            # A blank between two values.
            assert json.loads(bytes(data)) == meant and read.step == 6
    # No way around the seal by calling it an older version.
    file.write_bytes(whole.replace(b'"version": 3', b'"version": 2'))
    with pytest.raises(CheckpointError, match="is not as it was written"):
        read_manifest(file.parent)
    shutil.move(file.parent, trained / "step_00000007")
    (trained / "step_00000007" / MANIFEST).write_bytes(whole)
    with pytest.raises(CheckpointError, match="is of step 6; name it as it was named"):
        read_manifest(trained / "step_00000007")


def test_checkpoints_of_earlier_versions_are_read(
    plans: dict[int, PlanPart], trained: Path
) -> None:
    file = trained / "step_00000006" / MANIFEST
    data = json.loads(file.read_text())
    for key in ("seal", "save", "finite", "elsewhere"):
        del data[key]
    data["version"] = 2
    data["rest"] = {key: data["rest"][key] for key in ("loss_scale", "ranks", "scheduler", "data")}
    file.write_text(json.dumps(data))
    assert train(plans[4], trained, 6, resume=True).begun == 6


@pytest.mark.parametrize("turns", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_checkpoints_are_restored_or_refused(
    plans: dict[int, PlanPart], trained: Path, turns: int
) -> None:
    path, rng = trained / "step_00000006", random.Random(1)
    pipe = pipeline(plans[4])
    whole = {file.name: file.read_bytes() for file in path.iterdir()}
    size = int.from_bytes(whole["rank_0.safetensors"][:8], "little")
    ends = {"restored": 0, "refused": 0}
    for turn in range(turns):
        if turn % 2:
            text = mutate(whole[MANIFEST].decode(), rng)
            (path / MANIFEST).write_text(text, encoding="utf-8", errors="replace")
            with_seal(path / MANIFEST)
        else:
            header = mutate(whole["rank_0.safetensors"][8 : 8 + size].decode(), rng).encode(
                errors="replace"
            )
            rest = whole["rank_0.safetensors"][8 + size :]
            (path / "rank_0.safetensors").write_bytes(
                len(header).to_bytes(8, "little") + header + rest
            )
            data = json.loads(whole[MANIFEST])
            data["files"]["rank_0.safetensors"] = file_hash(path / "rank_0.safetensors")
            (path / MANIFEST).write_text(json.dumps(data))
            with_seal(path / MANIFEST)
        try:
            optimizer = torch.optim.AdamW(pipe.parameters())
            pipe.restore(path, optimizer)
            pipe.step(**next(batches(pipe, None, plans[4].path)))
            optimizer.step()
            optimizer.zero_grad()
            ends["restored"] += 1
        except PipecutError as error:
            assert str(error).strip()
            ends["refused"] += 1
        for name, content in whole.items():
            (path / name).write_bytes(content)
    assert all(ends.values()), ends


def with_seal(file: Path) -> None:
    """Seal what is JSON, so that what stands in it is read."""
    try:
        data = json.loads(file.read_text())
        data.pop("seal", None)
        file.write_text(json.dumps({**data, "seal": seal_of(data)}))
    except (ValueError, AttributeError, RecursionError):
        return


def test_machines_have_their_own_ranks_files_until_they_are_put_together(tmp_path: Path) -> None:
    values = torch.arange(20.0).view(10, 2)
    for machine, (rank, rows) in {"a": (0, (0, 6)), "b": (1, (6, 10))}.items():
        folder = tmp_path / machine
        partial = writing.begin(folder, 4)
        own = {f"parameter/own{rank}": torch.ones(3), "parameter/w": values[slice(*rows)]}
        writing.write_part(partial, rank, RankTensors(own, {"parameter/w": rows}))
        away = {
            f"parameter/own{1 - rank}": Elsewhere([1 - rank]),
            "parameter/w": Elsewhere([1 - rank], 10),
        }
        writing.finish(
            partial,
            folder,
            [rank],
            facts(4, save="x", elsewhere=away, training=TrainingState(ranks=2)),
        )
    path = tmp_path / "a" / "step_00000004"
    read = read_manifest(path)
    assert read.names == {"parameter/own0", "parameter/own1", "parameter/w"}
    part = read_tensors(path, read, ["parameter/w"], {"parameter/w": WantedRows(0, 6, 10)})
    assert torch.equal(part["parameter/w"], values[:6])
    with pytest.raises(
        CheckpointError, match="parameter own1 is in the files of rank 1 on another one; copy"
    ):
        read_tensors(path, read, ["parameter/own1"])
    with pytest.raises(CheckpointError, match="parameter w is in the files of rank 1"):
        read_tensors(path, read, ["parameter/w"], {"parameter/w": WantedRows(0, 7, 10)})
    with pytest.raises(CheckpointError, match="has 12 rows, in the checkpoint 10"):
        read_tensors(path, read, ["parameter/w"], {"parameter/w": WantedRows(0, 6, 12)})
    shutil.copytree(tmp_path / "b" / "step_00000004", path, dirs_exist_ok=True)
    read = read_manifest(path)
    assert not read.elsewhere
    whole = read_tensors(path, read, ["parameter/w", "parameter/own1"])
    assert torch.equal(whole["parameter/w"], values)
    edited(path, lambda data: data.update(save="y"))
    with pytest.raises(CheckpointError, match="are of two checkpoints"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("doubles", r"input 'x' is torch.float64\[8, 32\], the plan takes torch.float32"),
        ("scalars", "8 in x; 0 in target"),
    ],
)
def test_batches_that_are_none_are_said(
    plans: dict[int, PlanPart], tmp_path: Path, data: str, said: str
) -> None:
    with pytest.raises(RunError, match=said):
        train(plans[4], tmp_path, 3, checkpoint_every=0, data=data)


def test_arrays_in_a_users_own_loop_are_said(plans: dict[int, PlanPart]) -> None:
    pipe = pipeline(plans[4])
    batch = {
        name: tensor.numpy() for name, tensor in next(batches(pipe, None, plans[4].path)).items()
    }
    for call in (pipe.step, pipe.eval_step):
        with pytest.raises(RunError, match="is a ndarray, it must be a tensor"):
            call(**batch)


def test_shuffled_data_goes_on_in_the_order_it_had(
    plans: dict[int, PlanPart], tmp_path: Path
) -> None:
    whole = train(plans[4], tmp_path / "whole", 9, data="shuffled")
    train(plans[4], tmp_path / "parts", 6, data="shuffled")
    parts = train(plans[4], tmp_path / "parts", 9, data="shuffled", resume=True)
    assert parts.begun == 6
    for name, parameter in values_of(whole.pipe).items():
        assert torch.equal(parameter, values_of(parts.pipe)[name]), name


def test_what_a_crash_left_is_tidied_up(plans: dict[int, PlanPart], trained: Path) -> None:
    (trained / ".step_00000009.partial").mkdir()
    (trained / "step_00000006").rename(trained / ".step_00000006.replaced")
    assert checkpoint_folder.latest(trained) == trained / "step_00000003"
    checkpoint_folder.tidy(trained)
    assert names(trained) == ["step_00000003", "step_00000006"]
    pipe = pipeline(plans[4])
    with pytest.raises(CheckpointError, match="after step -1 cannot be"):
        pipe.save(trained, step=-1)


def test_a_file_that_cannot_be_written_is_said_before_it_is_read(
    plans: dict[int, PlanPart], trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserFileError, match="-o .* cannot be written"):
        export(plans[4].plan, trained, trained / "step_00000006")


def test_records_of_the_first_and_last_steps_alone_are_kept() -> None:
    measured = Measured()
    for step in range(1000):
        measured.add([step])  # type: ignore[list-item]
    assert measured.steps == [[step] for step in [*range(FIRST), *range(1000 - LAST, 1000)]]


def test_one_rank_needs_nobody_to_agree_with(tmp_path: Path) -> None:
    assert hosts.sharing(tmp_path / "new", 0, 1).all and not (tmp_path / "new").exists()
    assert hosts.exchange(3, 0, 1, "") == [3]
