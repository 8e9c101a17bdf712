"""What differs between a model and its graph by more than rounding."""

from pathlib import Path

import pytest
import torch

from pipecut.compiler.compare.compare import compare
from pipecut.compiler.compare.side_by_side import beyond_rounding
from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.trace.trace import trace
from pipecut.errors import TraceError

TWINS = """
model: {{factory: "tests.models.batches.twins:twice", args: {{of: {of}}}}}
inputs: "tests.models.batches.twins:same"
batch: {{global: 8, microbatch: 2}}
"""

ONES = {"loss/loss": torch.ones(1), "gradient/a": torch.ones(1), "gradient/b": torch.ones(1)}
APART = torch.full((1,), 1.001)


def test_a_tensor_that_the_last_bits_move_as_far_does_not_differ() -> None:
    assert beyond_rounding(ONES, ONES | {"gradient/a": APART}, ONES, 1e-5).value == 0.0
    nothing = beyond_rounding(
        ONES | {"gradient/a": APART}, ONES, ONES | {"gradient/a": APART}, 1e-5
    )
    assert nothing.value == 0.0


def test_a_tensor_is_not_excused_by_the_rounding_of_another() -> None:
    nudged = ONES | {"gradient/b": torch.full((1,), 2.0)}
    difference = beyond_rounding(ONES | {"gradient/a": APART}, ONES, nudged, 1e-5)
    assert difference.tensor == "gradient/a" and difference.value > 9e-4


@pytest.mark.parametrize("of", ["reading", "identity", "write"])
def test_a_tensor_with_two_names_stays_the_model_s_one_tensor(of: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(TWINS.format(of=of))
    job = read_job(path)
    graph = trace(job)
    if of == "reading":
        assert compare(job, graph).compared
        return
    with pytest.raises(TraceError, match="the traced graph computes something else"):
        compare(job, graph)
