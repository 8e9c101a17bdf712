"""Mistakes in how a job file says to train have a line, a column and a remedy."""

from pathlib import Path

import pytest

from pipecut.compiler.inputs.job import read_job
from pipecut.errors import UserFileError

START = """model: {factory: "tests.models.core:mlp"}
inputs: "tests.models.core:vectors"
batch: {global: 8, microbatch: 2}
"""


def job(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(START + text)
    return path


def test_the_arguments_are_those_of_torch(tmp_path: Path) -> None:
    text = 'optimizer: {name: AdamW, lr: 3e-4, betas: [0.9, 95e-2], no_decay: ["*.bias"]}\n'
    spec = read_job(job(tmp_path, text)).spec
    optimizer = spec.optimizer.in_plan
    assert optimizer.name == "adamw" and optimizer.no_decay == ["*.bias"]
    assert optimizer.all_arguments == {"lr": 3e-4, "betas": (0.9, 0.95)}
    assert read_job(job(tmp_path, "optimizer: sgd\n")).spec.optimizer.in_plan.model_dump() == "sgd"


def test_a_schedule_has_a_rate_for_every_step(tmp_path: Path) -> None:
    text = "lr_schedule: {warmup: 2, decay: linear, steps: 6, minimum: 1e-1}\nclip: 1\n"
    text += "optimizer: {name: sgd, lr: 1.1}\n"
    spec = read_job(job(tmp_path, text)).spec
    assert spec.clip == 1.0 and spec.lr_schedule is not None
    schedule = spec.lr_schedule.in_plan
    rates = [schedule.rate(step, 1.1) for step in range(8)]
    expected = [0.55, 1.1, 1.1, 0.85, 0.6, 0.35, 0.1, 0.1]
    assert rates == pytest.approx(expected)
    cosine = schedule.model_copy(update={"decay": "cosine"})
    rates = [cosine.rate(step, 1.1) for step in (2, 4, 6, 9)]
    assert rates == pytest.approx([1.1, 0.6, 0.1, 0.1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer: lion", r"4:12: optimizer.name: lion is no optimizer .* they are adamw, adam"),
        ("optimizer: adamv", r"did you mean adam\?"),
        ("optimizer: {name: LBFGS}", "4:19: .*lbfgs computes the loss many times a step"),
        ("optimizer: sparseadam", "takes sparse gradients only; use adam"),
        (
            "optimizer: {name: adamw, beta: [0.9, 0.95]}",
            "4:26: torch.optim.AdamW has no argument 'beta'; did you mean 'betas'?",
        ),
        ("optimizer: {name: sgd, fused: true}", "4:24: .*pipecut chooses it by the device"),
        ("optimizer: {name: adamw, lr: fast}", r"4:30: optimizer.lr: must be a number"),
        ("optimizer: {name: adamw, lr: -1.0}", "4:30: .*says: Invalid learning rate: -1.0"),
        ("optimizer: {name: adamw, lr: .nan}", r"4:30: optimizer.lr: must be a number"),
        ("optimizer: {name: adam, betas: 0.9}", "4:32: .*must be a list of 2 numbers"),
        ("optimizer: {name: adam, betas: [0.9, a]}", "4:32: .*must have numbers only .found 'a'"),
        ("optimizer: {name: adam, amsgrad: 1}", "4:34: .*must be true or false"),
        (
            "optimizer: {name: sgd, nesterov: true, momentum: 0}",
            "4:.*torch.optim.SGD says: Nesterov momentum requires a momentum",
        ),
        ('optimizer: {name: adam, no_decay: ["*.bias"]}', "4:25: .*adam decays nothing here"),
        ("optimizer: 3", "4:12: .*"),
        ("lr_schedule: {decay: cosine}", "4:14: .*decay: cosine needs steps"),
        ("lr_schedule: {decay: linear, warmup: 9, steps: 9}", "must be more than those of the"),
        ("lr_schedule: {warmup: 9, steps: 9}", "are for a rate that falls"),
        ("lr_schedule: {warmup: -1}", "4:23: .*greater than or equal to 0"),
        ("lr_schedule: {decay: exponential}", "4:22: .*'constant', 'linear' or 'cosine'"),
        (
            "lr_schedule: {decay: linear, steps: 9, minimum: 0.1}",
            r"4:49: lr_schedule.minimum: 0.1 is more than the learning rate, 0.001",
        ),
        ("clip: -1", "4:7: clip: .*greater than or equal to 0"),
        ("eval: {data: validation, every: 2}", "4:14: .*"),
        ('eval: {data: "tests.models.core:nothing", every: 2}', "4:14: .*nothing"),
        ('eval: {data: "tests.models.core:vectors", every: 0}', "4:50: .*greater than or equal"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserFileError, match=message):
        read_job(job(tmp_path, text + "\n"))
