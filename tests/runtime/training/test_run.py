"""A rank's options: what ranks must have alike, and what is said when it is stopped."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipecut.errors import RunError, UserFileError
from pipecut.run_options import RunOptions
from pipecut.runtime.training import run
from pipecut.runtime.training.run import save_weights, stopped_message


def stopped(every: int, save: Path | None) -> str:
    options = SimpleNamespace(checkpoint_every=every)
    training: Any = SimpleNamespace(options=options, home=Path("saved"), done=7)
    return stopped_message(training, save)


def test_a_stopped_training_says_how_to_go_on() -> None:
    assert stopped(3, Path("w")) == (
        "pipecut: stopped after step 7; its weights are in w; go on with --resume from saved"
    )
    assert stopped(0, None).endswith("nothing was kept, --checkpoint-every and --save do")


def test_places_that_cannot_be_written_are_refused_before_ranks_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    wrong = tmp_path / "file" / "below"
    for options in (
        RunOptions(save=wrong),
        RunOptions(log=wrong),
        RunOptions(trace=wrong),
        RunOptions(report=wrong),
    ):
        with pytest.raises(UserFileError, match="cannot be written"):
            run.run_rank(tmp_path / "no plan", options, restarted=False)
    monkeypatch.setenv("RANK", "1")
    run._refuse_unwritable(RunOptions(trace=wrong, report=wrong), restarted=False)


def test_every_option_that_changes_a_step_must_be_alike() -> None:
    usual = run._alike(RunOptions())
    for options in (
        RunOptions(data="a:b"),
        RunOptions(steps=9),
        RunOptions(rate=0.1),
        RunOptions(clip=1.0),
        RunOptions(checkpoint_every=2),
        RunOptions(log=Path("log")),
        RunOptions(trained_only=True),
    ):
        assert len(set(run._alike(options).items()) ^ set(usual.items())) == 2
    assert run._alike(RunOptions(device="cpu", save=Path("w"))) == usual


def pipe(replica: int) -> Any:
    world = SimpleNamespace(replica=replica, pipeline_rank=2)
    return SimpleNamespace(world=world, state_dict=lambda: {"w": torch.eye(3).t()[:2]})


def test_the_first_replica_saves_its_weights(tmp_path: Path) -> None:
    save_weights(pipe(replica=1), tmp_path / "weights")
    assert not (tmp_path / "weights").exists()
    save_weights(pipe(replica=0), tmp_path / "weights")
    saved = load_file(str(tmp_path / "weights" / "rank_2.safetensors"))
    assert torch.equal(saved["w"], torch.eye(3)[:2])
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"rank_2.safetensors cannot be written"):
        save_weights(pipe(replica=0), tmp_path / "file" / "below")
