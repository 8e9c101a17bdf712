"""Nested inputs are exact from the inputs function to a step, and in verify."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.errors import RunError
from pipecut.runtime.pipeline import load_pipeline
from pipecut.runtime.verify.verify import verify
from tests.models.batches import nested as models

JOB = """
model: {{factory: "tests.models.batches.nested:{model}"}}
inputs: "tests.models.batches.nested:{inputs}"
batch: {{global: 8, microbatch: 2{batch}}}
optimizer: sgd
{extra}"""
LOSS = 'loss: "tests.models.batches.nested:score"\n'
SUMS = 'loss: "tests.models.batches.nested:token_loss"\nreduction: tokens\nlengths: dynamic\n'


def compiled(tmp_path: Path, cores: str, sizes: SizeOverrides, **job: str) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(JOB.format(**{"inputs": "inputs", "batch": "", "extra": "", **job}))
    compile(path, cores, tmp_path / "plan", Options(sizes))
    return tmp_path / "plan"


def test_a_step_takes_what_the_inputs_function_returns(slow_cores: str, tmp_path: Path) -> None:
    sizes = SizeOverrides(stages=2, schedule="interleaved", stages_per_rank=2)
    pipe = load_pipeline(compiled(tmp_path, slow_cores, sizes, model="model"), "cpu")
    model = models.model()
    model.load_state_dict(pipe.state_dict())
    batch = models.inputs(8)
    expected = torch.zeros(())
    for first in range(0, 8, 2):
        of = slice(first, first + 2)
        views = models.Views([v[of] for v in batch["views"].images], (0.5, 2.0))
        views.more = {"flip": True}
        encoding = models.Encoding({n: t[of] for n, t in batch["encoding"].items()})
        boxes = models.Boxes(batch["target"].boxes.corners[of], batch["target"].boxes.anchors)
        target = models.Target(batch["target"].labels[of], boxes)
        loss = model(views, encoding, target)["loss"] / 4
        loss.backward()
        expected += loss.detach()
    torch.testing.assert_close(pipe.step(**batch), expected)
    gradients = {name: parameter.grad for name, parameter in pipe.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad)
    assert batch["views"].more == {"flip": True}, "the caller's batch was changed"
    assert pipe.predict(**batch)["logits"].shape == (8, models.CLASSES)
    with pytest.raises(RunError, match="rank 0: input 'target.smoothing' is 0.2, the plan was"):
        pipe.step(**{**batch, "target": models.Target(*_first(batch["target"]), smoothing=0.2)})


def _first(target: models.Target) -> tuple[torch.Tensor, models.Boxes]:
    return target.labels, target.boxes


# Model, inputs, what its batch and its job have more.
CASES = [
    ("model", "inputs", "", ""),
    ("scored", "scored_inputs", "", LOSS),
    ("tokens", "token_inputs", ", order: balanced", SUMS),
    ("tokens", "token_inputs", "", SUMS + "data_parallel: 2\nrecompute: always\n"),
    ("encoded", "encoded_inputs", "", ""),
    ("opaque", "scored_inputs", "", LOSS),
]


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["1f1b", "v-shaped"])
@pytest.mark.parametrize(("model", "inputs", "batch", "extra"), CASES)
def test_nested_inputs_are_exact_on_ranks(
    model: str,
    inputs: str,
    batch: str,
    extra: str,
    schedule: str,
    slow_cores: str,
    tmp_path: Path,
) -> None:
    sizes = SizeOverrides(stages=2 if schedule == "1f1b" else 4, schedule=schedule)
    job: dict[str, Any] = {"model": model, "inputs": inputs, "batch": batch, "extra": extra}
    plan = compiled(tmp_path, slow_cores, sizes, **job)
    result = verify(plan, steps=2, evaluation=True)
    assert result.passed, result.worst
