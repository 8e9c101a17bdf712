"""Whatever a batch holds and names are, stages compute what the unsplit model computes.

Plans of one rank with three stages, so that they run in this process.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.errors import RunError
from pipecut.runtime.pipeline import Pipeline, load_pipeline
from tests.models import frontend as models

JOB = (
    'model: {{factory: "tests.models.frontend:{name}"}}\ninputs: "tests.models.frontend:{inputs}"\n'
)
GLOBAL = 8


@pytest.fixture
def load(tmp_path: Path, slow_cores: str) -> Callable[..., Pipeline]:
    """Compile a model of tests/models/frontend.py and load it."""

    def make(name: str, inputs: str, extra: str = "", microbatch: int = 2) -> Pipeline:
        job = tmp_path / "job.yaml"
        batch = f"batch: {{global: {GLOBAL}, microbatch: {microbatch}}}\n"
        job.write_text(JOB.format(name=name, inputs=inputs) + batch + extra)
        sizes = SizeOverrides(stages=3, schedule="interleaved", stages_per_rank=3)
        compile(job, slow_cores, tmp_path / "plan", Options(sizes))
        return load_pipeline(tmp_path / "plan", "cpu")

    return make


# Model, inputs, those of them that do not follow the batch, more lines of the job, microbatch.
CASES = [
    ("operators", "operators_inputs", (), "", 2),
    ("names", "one_input", (), "", 2),
    ("whole", "whole_inputs", ("table", "pairs", "mask", "temperature"), "", 2),
    ("whole", "whole_inputs", ("table", "pairs", "mask", "temperature"), "", 1),
    ("in_place", "in_place_inputs", ("scale",), "", 2),
    ("in_place", "in_place_inputs", ("scale",), "recompute: always\n", 2),
    ("fixed", "one_input", (), "", 2),
    ("fixed", "one_input", (), "", 1),
    ("halved", "one_input", (), "", 2),
    ("alone", "one_input", (), "", 1),
    ("alone", "one_input", (), "", 2),
    ("measured", "one_input", (), "", 2),
    ("drawn", "one_input", (), "", 2),
    ("sliced", "one_input", (), "", 2),
    ("sliced_and_weighed", "one_input", (), "", 2),
    ("unannotated", "one_input", (), "", 2),
    ("no_labels", "labelled", (), 'loss: "tests.models.frontend:class_loss"\n', 2),
]


@pytest.mark.parametrize(("name", "inputs", "whole", "extra", "microbatch"), CASES)
def test_stages_compute_what_the_unsplit_model_does(
    name: str,
    inputs: str,
    whole: tuple[str, ...],
    extra: str,
    microbatch: int,
    load: Callable[..., Pipeline],
) -> None:
    pipe = load(name, inputs, extra, microbatch)
    torch.manual_seed(0)
    model = getattr(models, name)()
    for step in range(2):
        torch.manual_seed(step)
        batch = getattr(models, inputs)(GLOBAL)
        before = {
            key: value.clone() for key, value in batch.items() if isinstance(value, torch.Tensor)
        }
        total = 0.0
        for first in range(0, GLOBAL, microbatch):
            part = {
                key: value.clone() if key in whole else value[first : first + microbatch].clone()
                for key, value in before.items()
            }
            given = part if "labels" not in part or "loss" not in extra else {"x": part["x"]}
            output = model(**{**batch, **given} if given is part else given)
            loss = output["loss"] if isinstance(output, dict) else output
            loss = models.class_loss(output, part) if "loss" in extra else loss
            (loss * microbatch / GLOBAL).backward()
            total += float(loss.detach()) * microbatch / GLOBAL
        assert float(pipe.step(**batch)) == pytest.approx(total, rel=1e-6)
        assert all(torch.equal(batch[key], value) for key, value in before.items()), (
            "the caller's batch was changed"
        )
        gradients = dict(pipe.named_parameters())
        for key, parameter in model.named_parameters():
            torch.testing.assert_close(
                gradients[key].grad, parameter.grad, msg=lambda text, key=key: f"{key}: {text}"
            )
    assert set(pipe.state_dict()) == set(model.state_dict())
    for key, buffer in model.named_buffers():
        torch.testing.assert_close(dict(pipe.named_buffers())[key], buffer)


def test_a_batch_that_departs_from_the_plan_is_told_by_name(load: Callable[..., Pipeline]) -> None:
    pipe = load("whole", "whole_inputs")
    batch = models.whole_inputs(GLOBAL)
    cases: dict[str, dict[str, Any]] = {
        "input 'power' is 3, the plan was compiled for 2": {"power": 3},
        "input 'causal' is 1, the plan was compiled for True": {"causal": 1},
        r"input 'pairs' is torch.float32\[9, 8\], the plan takes torch.float32\[8, 8\]": {
            "pairs": torch.zeros(9, 8)
        },
        "input 'x' is a ndarray.*torch.from_numpy": {"x": batch["x"].numpy()},
        "input 'table' is a NoneType": {"table": None},
        "has more, which the plan does not know": {"more": torch.zeros(GLOBAL)},
    }
    for message, change in cases.items():
        with pytest.raises(RunError, match=f"rank 0: .*{message}"):
            pipe.step(**{**batch, **change})
    for name in ("causal", "power", "kind", "nothing"):
        with pytest.raises(RunError, match=f"rank 0: the batch misses '{name}', which is"):
            pipe.eval_step(**{key: value for key, value in batch.items() if key != name})


@pytest.mark.slow
def test_a_batch_that_leaves_one_sample_is_refused_where_the_model_looks_at_that(
    load: Callable[..., Pipeline],
) -> None:
    pipe = load("alone", "one_input")
    pipe.step(**models.one_input(GLOBAL))
    with pytest.raises(RunError, match=r"microbatch 1 .* 1 sample, .*models/frontend.py:\d+\)"):
        pipe.step(**models.one_input(5))
