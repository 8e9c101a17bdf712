"""Rank 0 alone prints losses and times: medians without the steps that warm up."""

import pytest
import torch

from pipecut.runtime.training.progress import WARM, Progress, StepTimes, count_tokens
from tests.plans import made_plan

BATCH = {"x": torch.zeros(8, 4)}


def progress(steps: int, loud: bool = True) -> Progress:
    return Progress(made_plan(), steps, loud)


def test_medians_leave_out_the_steps_that_warm_up() -> None:
    trained = progress(10)
    for step, seconds in enumerate([9.0] * WARM + [1.0, 2.0, 3.0]):
        trained.add(step, 0.5, StepTimes(seconds, seconds + 1), BATCH)
    assert trained.step_seconds == 2.0 and trained.done == WARM + 3


def test_a_training_of_few_steps_takes_its_last_one() -> None:
    trained = progress(2)
    for step, seconds in enumerate((9.0, 4.0)):
        trained.add(step, 0.5, StepTimes(seconds, seconds), BATCH)
    assert trained.step_seconds == 4.0


def test_about_twenty_lines_are_printed_and_the_last_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained = progress(101)
    for step in range(101):
        trained.add(step, 1.0 / (step + 1), StepTimes(0.1, 0.2), BATCH)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step     1/101  loss   1.0000     200.0 ms       40.0 samples/s"
    assert 20 <= len(lines) <= 22 and lines[-1].startswith("step   101/101")


def test_the_summary_has_losses_and_both_times(capsys: pytest.CaptureFixture[str]) -> None:
    trained = progress(6)
    for step in range(6):
        trained.add(step, 6.0 - step, StepTimes(0.1, 0.2), BATCH)
    capsys.readouterr()
    trained.sum_up()
    assert capsys.readouterr().out == (
        "loss 6.0000 before, 1.0000 after 6 steps\n"
        "forward and backward of a step: predicted 15000.0 ms, measured 100.0 ms; "
        "with the optimizer 200.0 ms (medians)\n"
    )


def test_other_ranks_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = progress(1, loud=False)
    quiet.add(0, 1.0, StepTimes(0.1, 0.1), BATCH)
    quiet.sum_up()
    assert capsys.readouterr().out == ""


def test_integers_of_two_dimensions_are_tokens_and_labels_are_not() -> None:
    labels = torch.zeros(8, dtype=torch.int64)
    assert count_tokens({"x": torch.zeros(8, 4), "labels": labels}) == 0
    assert count_tokens({"labels": labels, "ids": torch.zeros(8, 5, dtype=torch.int64)}) == 40
