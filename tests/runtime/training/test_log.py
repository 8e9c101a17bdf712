"""The log of a training: each step once, whatever ended it, in JSON and for TensorBoard."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipecut.errors import RunError, UserFileError
from pipecut.runtime.training import log
from pipecut.runtime.training.log import STEPS, TAKEN_BACK, TrainingLog, refuse_other_log
from pipecut.runtime.training.step_record import StepRecord


def record(step: int, **fields: Any) -> StepRecord:
    usual = {"loss": 1.0 / step, "rate": 0.1, "norm": None, "seconds": 0.5, "samples": 8}
    return StepRecord(step=step, **{**usual, "tokens": 0, **fields})


def lines(folder: Path, name: str = STEPS) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.fixture(autouse=True)
def without_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "find_spec", lambda name: None)


def test_a_line_has_what_is_known_of_a_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = TrainingLog(tmp_path / "new" / "log", 0)
    written.add(record(1))
    written.add(record(2, norm=3.0, tokens=400, mfu=0.4, peak_bytes=1 << 30))
    written.add(record(3, loss=float("inf")))
    written.add_evaluation(3, 0.25)
    # Before it is closed: a rank that is killed closes nothing.
    first, second, third, evaluated = lines(tmp_path / "new" / "log")
    assert first == {
        "step": 1,
        "loss": 1.0,
        "lr": 0.1,
        "seconds": 0.5,
        "samples_per_second": 16.0,
    }
    assert second["grad_norm"] == 3.0 and second["tokens_per_second"] == 800.0
    assert (second["mfu"], second["memory_peak_bytes"]) == (0.4, 1 << 30)
    assert third["loss"] is None and evaluated == {"step": 3, "eval_loss": 0.25}
    assert "pip install 'pipecut[tensorboard]'" in capsys.readouterr().err
    written.close()


def test_a_training_that_ends_before_its_first_step_hears_of_its_own_end_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    TrainingLog(tmp_path, 0).close()
    assert capsys.readouterr().err == "" and lines(tmp_path) == []


def test_steps_after_the_checkpoint_are_taken_back(tmp_path: Path) -> None:
    first = TrainingLog(tmp_path, 0)
    for step in range(1, 6):
        first.add(record(step))
    first.add_evaluation(5, 0.5)
    with (tmp_path / STEPS).open("a") as file:
        file.write('{"step": 6, "lo')
    first.close()
    again = TrainingLog(tmp_path, 3)
    for step in range(4, 7):
        again.add(record(step, loss=7.0))
    again.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert lines(tmp_path)[3]["loss"] == 7.0
    taken_back = (tmp_path / TAKEN_BACK).read_text().splitlines()
    assert len(taken_back) == 4 and taken_back[-1] == '{"step": 6, "lo'


def test_a_new_training_does_not_go_on_in_the_log_of_another(tmp_path: Path) -> None:
    refuse_other_log(tmp_path, goes_on=False)
    (tmp_path / STEPS).write_text('{"step": 1}\n')
    refuse_other_log(tmp_path, goes_on=True)
    with pytest.raises(UserFileError, match="has the log of another training; give another"):
        refuse_other_log(tmp_path, goes_on=False)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"--log .*file.* cannot be written"):
        TrainingLog(tmp_path / "file", 0)


def test_a_restart_before_the_first_checkpoint_takes_all_steps_back(tmp_path: Path) -> None:
    (tmp_path / STEPS).write_text('{"step": 1}\n')
    TrainingLog(tmp_path, 0).close()
    assert lines(tmp_path) == [] and lines(tmp_path, TAKEN_BACK)[0]["step"] == 1


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_the_same_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    pytest.importorskip("tensorboard")
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    first = TrainingLog(tmp_path, 0)
    for step in range(1, 5):
        first.add(record(step))
    first.close()
    again = TrainingLog(tmp_path, 2)
    again.add(record(3, loss=7.0))
    again.add_evaluation(3, 0.25)
    again.close()
    events = reading.EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, round(e.value, 3)) for e in events.Scalars("loss")] == [
        (1, 1.0),
        (2, 0.5),
        (3, 7.0),
    ]
    assert events.Scalars("eval_loss")[0].value == 0.25
