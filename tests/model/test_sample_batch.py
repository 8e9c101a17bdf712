"""The same batch of a step wherever it is made."""

from pathlib import Path

import torch

from pipecut.model.sample_batch import sample_batch
from tests.plans import made_plan

INPUTS = "import torch\ndef inputs(count):\n    return {'x': torch.randn(count, 4)}\n"


def test_a_batch_depends_on_its_step_alone(tmp_path: Path) -> None:
    (tmp_path / "sampled_inputs.py").write_text(INPUTS)
    model = made_plan(1).model.model_copy(
        update={"inputs": "sampled_inputs:inputs", "folders": [str(tmp_path)]}
    )
    with torch.random.fork_rng(devices=[]):
        first = sample_batch(model, 8, 0)["x"]
        torch.manual_seed(3)
        second = sample_batch(model, 8, 1)["x"]
        assert torch.equal(sample_batch(model, 8, 0)["x"], first)
    assert first.shape == (8, 4) and not torch.equal(first, second)
