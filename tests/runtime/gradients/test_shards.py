"""Rows of parameters are divided evenly over replicas, and nothing is left out."""

import ast
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.plan.rows import divided, rows_of
from tests.models.numerics import plain, vectors
from tests.ranks import run_ranks


@given(rows=st.integers(1, 1000), shards=st.integers(2, 64))
def test_every_row_is_of_one_replica_and_none_has_more_than_another_and_one(
    rows: int, shards: int
) -> None:
    if not divided([rows, 3], shards):
        assert rows < shards
        return
    parts = [rows_of([rows, 3], shards, replica) for replica in range(shards)]
    assert [row for begin, end in parts for row in range(begin, end)] == list(range(rows))
    sizes = [end - begin for begin, end in parts]
    assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1


def test_a_scalar_is_whole_on_every_replica() -> None:
    assert not divided([], 2)


# An optimizer that writes to .data, as some of other packages do.
BODY = """
from tests.models.numerics import vectors
pipe, losses = pipecut.load("{plan}"), []
for step in range(4):
    torch.manual_seed(step)
    losses.append(float(pipe.step(**vectors(8))))
    for parameter in pipe.parameters():
        parameter.data.add_(parameter.grad, alpha=-2.0)
        parameter.grad = None
print(losses)
"""


def losses_unsplit() -> list[float]:
    torch.manual_seed(0)
    model, losses = plain(), []
    for step in range(4):
        torch.manual_seed(step)
        loss = model(**vectors(8))
        loss.backward()
        losses.append(loss.item())
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.data.add_(parameter.grad, alpha=-2.0)
            parameter.grad = None
    return losses


@pytest.mark.parametrize("precision", [pytest.param("fp32", marks=pytest.mark.slow), "bf16"])
def test_rows_that_are_written_past_autograd_reach_every_replica(
    precision: str,
    slow_cores: str,
    tmp_path: Path,
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(
        'model: {factory: "tests.models.numerics:plain"}\n'
        'inputs: "tests.models.numerics:vectors"\nbatch: {global: 8, microbatch: 2}\n'
        f"data_parallel: 2\nshard_optimizer: true\nprecision: {precision}\n"
    )
    compile(job, slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=1)))
    expected = losses_unsplit()
    assert min(abs(a - b) for a, b in pairwise(expected)) > 0.02
    for one in run_ranks(tmp_path, [BODY.format(plan=tmp_path / "plan")] * 2):
        assert one.code == 0, one.output
        found = ast.literal_eval(one.output.strip().splitlines()[-1])
        assert found == pytest.approx(expected, rel=1e-5 if precision == "fp32" else 1e-2)
