"""Rows of parameters are divided evenly over replicas, and nothing is left out."""

import ast
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.plan.rows import divided, rows_of
from pipecut.runtime.gradients.masters import Masters
from pipecut.runtime.gradients.shards import Shards, shard
from tests.chain import chain_worlds
from tests.models.numerics import plain, vectors
from tests.parameters import rank_parameter
from tests.plans import made_plan
from tests.process_groups import in_group
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_replica_steps_its_rows_alone(dtype: torch.dtype) -> None:
    values = torch.arange(10.0).view(5, 2)
    parameter = rank_parameter(nn.Parameter(values.clone().to(dtype)))
    bias = rank_parameter(nn.Parameter(torch.ones(())), "bias")
    parameters = [parameter, bias]
    shard(parameters, shards=2, replica=1)
    sharded, kept = parameters
    assert kept is bias and sharded.rows == (2, 5)
    assert torch.equal(sharded.stepped.detach(), values[2:])
    with torch.no_grad():
        sharded.stepped.add_(1.0)
    is_view = torch.equal(sharded.model.detach()[2:].float(), values[2:] + 1)
    assert is_view == (dtype is torch.float32)


def test_the_master_of_a_sharded_parameter_takes_gradients_without_values() -> None:
    parameters = [rank_parameter(nn.Parameter(torch.ones(4, 2, dtype=torch.float16)))]
    shard(parameters, shards=2, replica=0)
    master = parameters[0].master
    assert master.shape == (4, 2) and master.untyped_storage().nbytes() == 4
    assert torch.equal(parameters[0].model.float(), torch.ones(4, 2))
    Masters(parameters)
    parameters[0].model.sum().backward()
    assert torch.equal(master.grad, torch.ones(4, 2))


def test_rows_of_a_gradient_are_handed_over() -> None:
    world = chain_worlds(made_plan(1, replicas=2))[0]
    parameters = [rank_parameter(nn.Parameter(torch.ones(3, 2)))]
    shard(parameters, shards=2, replica=0)
    (parameter,), shards = parameters, Shards(world, parameters)
    assert not shards.is_even(parameter), "three rows over two replicas"
    shards.hand_over(parameter)
    assert parameter.stepped.grad is None
    parameter.master.grad = torch.arange(6.0).view(3, 2)
    shards.hand_over(parameter)
    assert parameter.stepped.grad is not None and parameter.stepped.grad.tolist() == [[0.0, 1.0]]
    assert parameter.master.grad is None


@pytest.mark.parametrize("rows", [4, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stepped_rows_reach_every_replica(rows: int, dtype: torch.dtype) -> None:
    def gathered(group: Any) -> torch.Tensor:
        world = chain_worlds(made_plan(1, replicas=2))[group.rank()]
        world.replica_group = group
        parameters = [rank_parameter(nn.Parameter(torch.zeros(rows, 2, dtype=dtype)))]
        shard(parameters, shards=2, replica=group.rank())
        parameters[0].stepped.data.fill_(group.rank() + 1.0)
        Shards(world, parameters).gather()
        return parameters[0].model.detach().float()

    for model in in_group(2, gathered):
        assert model[:, 0].tolist() == [1.0] * (rows // 2) + [2.0] * (rows - rows // 2)


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
