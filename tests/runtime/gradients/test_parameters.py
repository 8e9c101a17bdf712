"""Each parameter of a rank has one record, under all its names, whichever of its stages use it."""

from typing import Any

import torch
from torch import nn

from pipecut.plan.schema import OpaqueModule, Plan, StageTensor, Tied
from pipecut.runtime.gradients.parameters import (
    by_name,
    on_gradient,
    rank_parameters,
    ranks_that_share,
)
from pipecut.runtime.gradients.tied import share_tied
from tests.chain import Multiply, chain_modules, chain_worlds
from tests.parameters import rank_parameter
from tests.plans import made_plan, made_stage

NAMES = ["embedding.weight", "head.weight"]


class Ends(nn.Module):
    """A stage that holds the tied weight under both names, and one of its own."""

    def __init__(self) -> None:
        super().__init__()
        for name in NAMES:
            holder = nn.Module()
            holder.register_parameter("weight", nn.Parameter(torch.rand(4, 4)))
            self.add_module(name.partition(".")[0], holder)
        self.bias = nn.Parameter(torch.zeros(4), requires_grad=False)


def tied_plan(ranks: tuple[int, ...], **fields: Any) -> Plan:
    """Three stages of which the first and the last share a weight, on these pipeline ranks."""
    weight = StageTensor(names=NAMES, shape=[4, 4], dtype="float32", trainable=True)
    bias = StageTensor(names=["bias"], shape=[4], dtype="float32")
    stages = [
        made_stage(
            index, 3, pipeline_rank=rank, **({"parameters": [weight, bias]} if index != 1 else {})
        )
        for index, rank in enumerate(ranks)
    ]
    return made_plan(3, stages=stages, tied=[Tied(names=NAMES, stages=[0, 2])], **fields)


def test_a_chain_has_a_parameter_per_stage_in_order() -> None:
    plan = made_plan(3, stages=[made_stage(i, 3, pipeline_rank=0) for i in range(3)])
    modules = chain_modules(plan)
    parameters = rank_parameters(plan, chain_worlds(plan)[0], modules)
    assert [p.name for p in parameters] == [f"layers.{i}.weight" for i in range(3)]
    assert [p.stages for p in parameters] == [(0,), (1,), (2,)]
    for parameter, module in zip(parameters, modules.values(), strict=True):
        assert parameter.model is module.layers[parameter.name.split(".")[1]].weight
        assert parameter.model is parameter.master is parameter.stepped
        assert parameter.trainable and parameter.rows is None and not parameter.tied_ranks


def test_a_weight_of_two_stages_of_one_rank_is_one_parameter() -> None:
    plan = tied_plan((0, 1, 0))
    modules: dict[int, nn.Module] = {0: Ends(), 2: Ends()}
    share_tied(plan, modules)
    parameters = by_name(rank_parameters(plan, chain_worlds(plan)[0], modules))
    weight, bias = parameters["embedding.weight"], parameters["bias"]
    assert weight.names == tuple(NAMES) and weight.stages == (0, 2) and not weight.tied_ranks
    held = {
        id(p) for module in modules.values() for n, p in module.named_parameters() if "weight" in n
    }
    assert held == {id(weight.model)}
    assert not bias.trainable and parameters["head.weight"] is weight


def test_a_weight_of_any_stage_with_an_opaque_module_is_beside_it() -> None:
    plan = tied_plan((0, 1, 2))
    modules: dict[int, nn.Module] = {0: Ends()}
    share_tied(plan, modules)
    world = chain_worlds(plan)[0]
    head = plan.stages[2].model_copy(update={"opaque": [OpaqueModule(name="head", results=[])]})
    with_opaque = plan.model_copy(update={"stages": [*plan.stages[:2], head]})
    for of, beside in ((plan, False), (with_opaque, True)):
        weight = by_name(rank_parameters(of, world, modules))["embedding.weight"]
        assert weight.beside_opaque == beside


def test_a_weight_of_several_ranks_names_those_of_its_replica() -> None:
    plan = tied_plan((0, 1, 2), replicas=2)
    worlds = chain_worlds(plan)
    assert ranks_that_share(plan, worlds[0]) == {"embedding.weight": (0, 4)}
    assert ranks_that_share(plan, worlds[5]) == {"embedding.weight": (1, 5)}
    assert ranks_that_share(plan, worlds[2]) == {}
    modules: dict[int, nn.Module] = {2: Ends()}
    share_tied(plan, modules)
    weight = by_name(rank_parameters(plan, worlds[4], modules))["head.weight"]
    assert weight.tied_ranks == (0, 4) and weight.is_owned_by(0) and not weight.is_owned_by(4)


def test_half_precision_parameters_that_are_trained_have_a_master() -> None:
    plan = made_plan(1)
    module = Multiply(0, last=True).half()
    (parameter,) = rank_parameters(plan, chain_worlds(plan)[0], {0: module})
    assert parameter.has_master and parameter.master.dtype == torch.float32
    module.requires_grad_(False)
    (parameter,) = rank_parameters(plan, chain_worlds(plan)[0], {0: module})
    assert not parameter.has_master


def test_a_parameter_that_no_other_rank_has_is_owned_by_any() -> None:
    assert rank_parameter(nn.Parameter(torch.ones(1))).is_owned_by(3)


def test_hooks_are_called_in_the_order_they_were_given() -> None:
    weight, calls = nn.Parameter(torch.ones(2)), []
    on_gradient(weight, lambda model: calls.append(("first", model is weight)))
    on_gradient(weight, lambda _: calls.append(("second", True)))
    weight.sum().backward()
    assert calls == [("first", True), ("second", True)]
