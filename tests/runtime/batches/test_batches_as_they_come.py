"""Loss and gradients of a step are those of its samples, each taken by itself, however they come.

Smaller last batches, microbatches that do not divide the batch, lists of microbatches and samples
of their own lengths, ignored labels, means over labels and sums; on ranks of every schedule.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.compiler.schedules.registry import SCHEDULES
from pipecut.runtime.launch.launch import launch
from pipecut.runtime.pipeline import load_pipeline
from tests.models.batches import causal as models

JOB = """
model: {{factory: "tests.models.batches.causal:causal", args: {{reduction: {loss}}}}}
inputs: "tests.models.batches.causal:inputs"
batch: {{global: 8, microbatch: {microbatch}, order: {order}, pad: {{ids: 0, labels: -100}}}}
reduction: {reduction}
lengths: dynamic
optimizer: sgd
{extra}"""
LOSSES = {"mean": "tokens", "sum": "sum"}
STAGES = {name: 2 * (schedule.stages_per_rank or 2) for name, schedule in SCHEDULES.items()}
Made = dict[str, dict[str, torch.Tensor]]


def compiled(folder: Path, cores: str, sizes: SizeOverrides, **job: Any) -> Path:
    given = {"loss": "mean", "microbatch": 2, "order": "balanced", "extra": "", **job}
    (folder / "job.yaml").write_text(JOB.format(reduction=LOSSES[given["loss"]], **given))
    compile(folder / "job.yaml", cores, folder / "plan", Options(sizes))
    return folder / "plan"


def check(made: Made, state: dict[str, torch.Tensor], microbatch: int, loss: str) -> None:
    """Beside the sum over samples by themselves, divided by the counted labels for a mean."""
    for name, batch in models.batches(microbatch).items():
        model = models.causal("sum")
        model.load_state_dict(state)
        samples = models.by_itself(batch)
        counted = sum(int((s["labels"] != models.IGNORED).sum()) for s in samples)
        expected = sum(model(**sample) for sample in samples)
        expected = expected / counted if loss == "mean" else expected
        expected.backward()
        gradients = {n: p.grad for n, p in model.named_parameters()}
        for key, value in {"loss": expected, "eval loss": expected, **gradients}.items():
            torch.testing.assert_close(
                made[name][key],
                value.detach(),
                rtol=2e-5,
                atol=1e-5,
                msg=lambda text, at=f"{name}, {key}": f"{at}: {text}",
            )


# Schedule, loss, samples of a microbatch, order, what the job has more.
CASES = [
    *((schedule, "mean", 2, "balanced", "") for schedule in SCHEDULES),
    *((schedule, "sum", 3, "as-given", "") for schedule in SCHEDULES),
    ("1f1b", "sum", 4, "balanced", "data_parallel: 2\n"),
    ("v-shaped", "mean", 2, "balanced", "data_parallel: 2\n"),
    ("gpipe", "mean", 2, "balanced", "recompute: always\n"),
    ("1f1b", "mean", 3, "balanced", "compile: inductor\n"),
    ("interleaved", "mean", 2, "balanced", "precision: fp32\nshard_optimizer: true\n"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("schedule", "loss", "microbatch", "order", "extra"), CASES)
def test_batches_are_their_samples_on_ranks(
    schedule: str,
    loss: str,
    microbatch: int,
    order: str,
    extra: str,
    slow_cores: str,
    tmp_path: Path,
) -> None:
    sizes = SizeOverrides(stages=STAGES[schedule], schedule=schedule)
    job = {"loss": loss, "microbatch": microbatch, "order": order, "extra": extra}
    plan = compiled(tmp_path, slow_cores, sizes, **job)
    ranks = 4 if "data_parallel" in extra else 2
    given = [str(plan), str(microbatch), str(tmp_path)]
    launch(ranks, "tests.programs.given_batches", given)
    files = [torch.load(tmp_path / f"{rank}.pt") for rank in range(ranks)]
    state = {name: t for file in files for name, t in file["state"].items()}
    for replica in range(ranks // 2):
        of_replica = files[replica :: ranks // 2]
        made: Made = {}
        for name in of_replica[0]["made"]:
            made[name] = {k: t for file in of_replica for k, t in file["made"][name].items()}
        check(made, state, microbatch, loss)


def test_batches_are_their_samples(slow_cores: str, tmp_path: Path) -> None:
    sizes = SizeOverrides(stages=2, schedule="interleaved", stages_per_rank=2)
    pipe = load_pipeline(compiled(tmp_path, slow_cores, sizes), "cpu")
    assert pipe.plan.batch.more_samples is not None
    made: Made = {}
    for name, batch in models.batches(2).items():
        made[name] = {"loss": pipe.step(**batch), "eval loss": pipe.eval_step(**batch)}
        for key, parameter in pipe.named_parameters():
            assert parameter.grad is not None
            made[name][key], parameter.grad = parameter.grad, None
    check(made, pipe.state_dict(), 2, "mean")
