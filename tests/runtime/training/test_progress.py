"""Rank 0 alone prints losses and times: medians without the steps that warm up."""

import io

import pytest
import torch
from rich.console import Console

from pipecut.runtime.training import progress as progress_module
from pipecut.runtime.training.progress import WARM, Progress, StepTimes, TrainingBar, count_tokens
from pipecut.runtime.training.step_record import StepRecord
from tests.plans import made_plan, made_tensor


def record(step: int, loss: float, seconds: float = 0.2) -> StepRecord:
    """Step `step`, counted from 0."""
    return StepRecord(step + 1, loss, 0.1, None, seconds, samples=8, tokens=0)


def progress(steps: int, loud: bool = True) -> Progress:
    return Progress(made_plan(), steps, loud)


def test_medians_leave_out_the_steps_that_warm_up() -> None:
    trained = progress(10)
    for step, seconds in enumerate([9.0] * WARM + [1.0, 2.0, 3.0]):
        trained.add(record(step, 0.5, seconds + 1), StepTimes(seconds, seconds + 1))
    assert trained.step_seconds == 2.0 and trained.done == WARM + 3


def test_a_training_of_few_steps_takes_its_last_one() -> None:
    trained = progress(2)
    for step, seconds in enumerate((9.0, 4.0)):
        trained.add(record(step, 0.5, seconds), StepTimes(seconds, seconds))
    assert trained.step_seconds == 4.0


def test_about_twenty_lines_are_printed_and_the_last_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained = progress(101)
    for step in range(101):
        trained.add(record(step, 1.0 / (step + 1), 0.2), StepTimes(0.1, 0.2))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step     1/101  loss   1.0000     200.0 ms       40.0 samples/s"
    assert 20 <= len(lines) <= 22 and lines[-1].startswith("step   101/101")


def test_the_summary_has_losses_and_both_times(capsys: pytest.CaptureFixture[str]) -> None:
    trained = progress(6)
    for step in range(6):
        trained.add(record(step, 6.0 - step, 0.2), StepTimes(0.1, 0.2))
    capsys.readouterr()
    trained.sum_up()
    assert capsys.readouterr().out == (
        "loss 6.0000 before, 1.0000 after 6 steps\n"
        "forward and backward of a step: predicted 15000.0 ms, measured 100.0 ms; "
        "with the optimizer 200.0 ms (medians)\n"
    )


def test_other_ranks_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = progress(1, loud=False)
    quiet.add(record(0, 1.0, 0.1), StepTimes(0.1, 0.1))
    quiet.sum_up()
    assert capsys.readouterr().out == ""


def test_integers_of_two_dimensions_are_tokens_and_labels_are_not() -> None:
    shapes: dict[str, list[int | str]] = {
        "x": ["batch", 4],
        "labels": ["batch"],
        "ids": ["batch", 5],
    }
    plan = made_plan(inputs=[made_tensor(name, shape=shape) for name, shape in shapes.items()])
    labels = torch.zeros(8, dtype=torch.int64)
    ids = torch.zeros(8, 5, dtype=torch.int64)
    assert count_tokens(plan, {"x": torch.zeros(8, 4), "labels": labels}) == 0
    assert count_tokens(plan, {"labels": labels, "ids": ids}) == 40
    assert count_tokens(plan, {"labels": list(labels), "ids": list(ids)}) == 40


def test_a_bar_in_a_terminal_has_the_time_left_loss_and_speed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = io.StringIO()
    terminal = Console(file=drawn, force_terminal=True, width=120)
    monkeypatch.setattr(progress_module, "Console", lambda: terminal)
    bar = TrainingBar(steps=4, begun=1)
    for step in (1, 2):
        bar.add(StepRecord(step + 1, 2.5, 0.1, None, 0.5, samples=8, tokens=4000, mfu=0.41))
    bar.close()
    last = drawn.getvalue().rpartition("step")[2]
    assert "3/4" in last and "loss 2.5000  8,000 tokens/s  MFU 41%" in last
    # The cursor is there whenever a rank is killed.
    assert drawn.getvalue().rindex("\x1b[?25h") > drawn.getvalue().rindex("\x1b[?25l")
