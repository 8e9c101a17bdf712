"""Ranks' tensors of a step are compared with the unsplit model's, divided ones by their rows."""

import torch

from pipecut.model.comparison import Comparing
from pipecut.plan.schema import StageTensor
from pipecut.runtime.verify.verify import compare_step
from tests.plans import made_plan, made_stage

WEIGHT = torch.arange(16.0).view(4, 4) + 1


def test_each_replica_has_its_rows_of_a_divided_parameter() -> None:
    plan = made_plan(1, replicas=2, shard_optimizer=True)
    expected = {"parameter/layers.0.weight": WEIGHT, "loss/loss": torch.tensor(1.0)}
    ranks = [
        {"parameter/layers.0.weight": rows, "loss/loss": torch.tensor(1.0)}
        for rows in (WEIGHT[:2], WEIGHT[2:])
    ]
    comparing = Comparing()
    compare_step(plan, comparing, ranks, expected)
    assert comparing.result(0.0).passed and comparing.compared == 4
    compare_step(plan, comparing, ranks[::-1], expected)
    assert not comparing.result(1e-2).passed


def test_a_tensor_that_no_rank_has_is_missed_but_an_empty_one() -> None:
    comparing = Comparing()
    compare_step(made_plan(1), comparing, [{}], {"buffer/empty": torch.empty(0)})
    assert comparing.result(0.0).passed
    compare_step(made_plan(1), comparing, [{}], {"buffer/mean": torch.ones(1)})
    assert comparing.worst["buffer"].name == "mean is on no rank"


def test_constants_that_only_stages_have_are_not_compared() -> None:
    mask = StageTensor(names=["mask"], shape=[1], dtype="float32", persistent=False)
    plan = made_plan(1, stages=[made_stage(buffers=[mask])])
    comparing = Comparing()
    compare_step(plan, comparing, [{"buffer/mask": torch.ones(1)}], {})
    assert comparing.compared == 0
    compare_step(plan, comparing, [{"buffer/other": torch.ones(1)}], {})
    assert not comparing.result(1.0).passed
