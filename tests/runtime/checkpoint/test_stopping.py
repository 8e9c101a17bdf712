"""Real ranks that stop, save slowly, diverge or see different files, and how they continue."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.errors import RankLostError
from pipecut.plan.folder import read_plan
from pipecut.runtime.checkpoint import folder as checkpoint_folder
from pipecut.runtime.checkpoint.export import export
from pipecut.runtime.launch.launch import launch


@pytest.fixture
def plan(write_job: Any, slow_cores: str, tmp_path: Path) -> Path:
    compile(
        write_job("mlp", "vectors"), slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=2))
    )
    return tmp_path / "plan"


def command(plan: Path, *more: str) -> list[str]:
    data = "tests.models.checkpoint:slow"
    run = [sys.executable, "-m", "pipecut", "run", str(plan), "--data", data, "--device", "cpu"]
    return [*run, *more]


def exported(plan: Path, folder: Path) -> dict[str, torch.Tensor]:
    file = folder.with_suffix(".safetensors")
    export(read_plan(plan).plan, folder, file)
    return load_file(str(file))


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_training_keeps_one_step_and_goes_on_as_if_it_had_not(
    plan: Path, tmp_path: Path, how: signal.Signals
) -> None:
    options = ["--steps", "60", "--checkpoint-every", "50", "--checkpoints"]
    saved, output = tmp_path / "stopped", tmp_path / "output.txt"
    begin = command(plan, *options, str(saved), "--save", str(tmp_path / "weights"))
    with output.open("w") as file:
        running = subprocess.Popen(begin, stdout=file, stderr=file)
        while running.poll() is None and "step     7/60" not in output.read_text():
            time.sleep(0.05)
        running.send_signal(how)
        code = running.wait()
    text = output.read_text()
    assert code == 130 and "Traceback" not in text, text
    (kept,) = checkpoint_folder.checkpoints(saved)
    step = checkpoint_folder.step_of(kept)
    assert 7 <= step < 50 and f"stopped after step {step}; its weights are in" in text, text
    # Every rank's weights are of this step.
    weights = exported(plan, saved)
    for file in (tmp_path / "weights").iterdir():
        assert all(torch.equal(value, weights[name]) for name, value in load_file(file).items())
    subprocess.run(command(plan, *options, str(saved), "--resume"), check=True)
    if how is signal.SIGINT:
        return
    subprocess.run(command(plan, *options, str(tmp_path / "whole")), check=True)
    whole, parts = exported(plan, tmp_path / "whole"), exported(plan, saved)
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_every_rank_once_and_for_all(
    plan: Path, tmp_path: Path
) -> None:
    more = ["--steps", "20", "--checkpoints", str(tmp_path / "saved"), "--checkpoint-every", "2"]
    run = command(plan, *more, "--max-restarts", "3")
    run[run.index("tests.models.checkpoint:slow")] = "tests.models.checkpoint:diverging"
    ended = subprocess.run(run, capture_output=True, text=True)
    assert ended.returncode == 4, ended.stderr
    assert ended.stderr.count("step 6: the loss is nan") == 1 and "step_00000004" in ended.stderr
    assert "starting again" not in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.slow
def test_a_checkpoint_that_takes_longer_than_a_stall_ends_no_rank(
    plan: Path, tmp_path: Path
) -> None:
    arguments = ["slow_saver", str(plan), str(tmp_path / "saved")]
    launch(2, "tests.models.checkpoint", arguments, stall=6.0)
    last = checkpoint_folder.latest(tmp_path / "saved")
    assert last is not None and checkpoint_folder.step_of(last) == 3


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_is_refused_while_the_first_goes_on(
    plan: Path, tmp_path: Path
) -> None:
    more = ["--steps", "200", "--checkpoints", str(tmp_path / "saved"), "--checkpoint-every", "100"]
    first = subprocess.Popen(command(plan, *more), stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None and "step " in first.stdout.readline()
    second = subprocess.run(command(plan, *more), capture_output=True, text=True)
    assert second.returncode == 4 and "is in use by another run (process " in second.stderr
    first.send_signal(signal.SIGINT)
    first.communicate()
    assert first.returncode == 130


def machines(base: Path, plan: Path, steps: int, *more: str) -> None:
    """Four ranks, each two of which see files that the other two do not."""
    data = ["--data", "tests.models.checkpoint:tokens", "--device", "cpu"]
    options = ["--steps", str(steps), "--checkpoint-every", "3", "--checkpoints", "saved", *data]
    arguments = ["machine", str(base), str(plan), *options, *more]
    launch(read_plan(plan).plan.ranks, "tests.models.checkpoint", arguments)


@pytest.mark.slow
@pytest.mark.parametrize("state", ["false", "true"])
def test_machines_without_a_shared_file_system_go_on_from_the_last_step_that_all_have(
    write_job: Any, slow_cores: str, tmp_path: Path, state: str, capfd: pytest.CaptureFixture[str]
) -> None:
    # The embedding is tied to the head: ranks of both machines have it.
    job = write_job("gpt2", "tokens", extra=f"shard_optimizer: {state}\n")
    for stages, replicas in ((2, 2), (2, 1), (4, 1)):
        sizes = SizeOverrides(stages=stages, replicas=replicas)
        compile(job, slow_cores, tmp_path / f"{stages}x{replicas}", Options(sizes))
    plan, base = tmp_path / "2x2", tmp_path / "hosts"
    (tmp_path / "whole").mkdir()
    machines(tmp_path / "whole", plan, 9)
    base.mkdir()
    machines(base, plan, 6)
    assert "the ranks do not all see saved" in capfd.readouterr().err
    last = base / "machine_1" / "saved" / "step_00000006"
    shutil.rmtree(last)
    machines(base, plan, 9, "--resume")
    said = capfd.readouterr()
    assert "going on after step 3" in said.out
    assert "checkpoints after step 3 are set aside as aside_step_00000006" in said.err
    for part in ("machine_0", "machine_1"):
        ranks = "01" if part.endswith("0") else "23"
        for rank in ranks:
            name = Path(part) / "saved" / "step_00000009" / f"rank_{rank}.safetensors"
            whole, gone = load_file(tmp_path / "whole" / name), load_file(base / name)
            assert whole.keys() == gone.keys()
            trained = [key for key in whole if not key.startswith("random/")]
            assert not [key for key in trained if not torch.equal(whole[key], gone[key])]
    # On other ranks each needs what the other machine has.
    with pytest.raises(RankLostError):
        machines(base, tmp_path / "4x1", 12, "--resume")
    assert "share no file system" in capfd.readouterr().err
    with pytest.raises(Exception, match="share no file system"):
        export(read_plan(plan).plan, base / "machine_0" / "saved", tmp_path / "a.safetensors")
    merged = tmp_path / "merged"
    for part in ("machine_0", "machine_1"):
        step = base / part / "saved" / "step_00000009"
        shutil.copytree(step, merged / step.name, dirs_exist_ok=True)
    options = ["--steps", "12", "--checkpoints", str(merged), "--checkpoint-every", "3", "--resume"]
    launch(2, "pipecut.runtime", [str(tmp_path / "2x1"), "--device", "cpu", *options])
    assert "going on after step 9" in capfd.readouterr().out
    assert export(read_plan(plan).plan, merged, tmp_path / "b.safetensors").step == 12


@pytest.mark.parametrize("how, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_stopped_says_so(how: signal.Signals, code: int) -> None:
    program = (
        "import typer, time, pipecut.cli as c; c.app = typer.Typer()\n"
        "@c.app.command()\ndef wait() -> None: print('waits', flush=True); time.sleep(60)\n"
        "c.main()"
    )
    command = [sys.executable, "-c", program]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None and running.stdout.readline()
    running.send_signal(how)
    assert running.communicate(timeout=30)[1] == "pipecut: stopped\n"
    assert running.returncode == code


def test_an_interrupt_while_a_rank_imports_shows_no_traceback() -> None:
    program = (
        "from pipecut.runtime.health.interrupt import end_at_interrupt; end_at_interrupt()\n"
        "import os, signal; os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(9)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (130, "")
