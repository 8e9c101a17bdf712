"""Replicas sum their gradients, and gather what each has stepped, in few calls."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from pipecut.plan.layout import RankLayout
from pipecut.plan.replay.memory import padded_bytes
from pipecut.plan.rows import Rows
from pipecut.plan.schema import StageTensor
from pipecut.runtime.gradients import shards as sharding
from pipecut.runtime.gradients.buckets import Collective
from pipecut.runtime.gradients.masters import Masters
from pipecut.runtime.gradients.parameters import RankParameter, parameters_of
from pipecut.runtime.gradients.replicas import ReplicaGradients
from pipecut.runtime.gradients.shards import Shards, shard
from pipecut.runtime.health.status import Status
from pipecut.runtime.ranks.world import World
from tests.chain import chain_worlds
from tests.parameters import rank_parameter
from tests.plans import made_plan
from tests.process_groups import in_group


class Odd(nn.Module):
    """Parameters whose rows divide evenly, unevenly and not at all, and one without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(30))
        self.uneven = nn.Linear(6, 7)
        self.scalar = nn.Parameter(torch.tensor(2.0))
        self.unused = nn.Parameter(torch.ones(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        loss: torch.Tensor = self.uneven(x).pow(2).sum() * self.scalar
        return loss


def test_rows_that_are_uneven_take_room_for_the_most_of_each_replica() -> None:
    uneven = StageTensor(names=["weight"], shape=[7, 5], dtype="float32", trainable=True)
    assert padded_bytes(uneven, 3) == 3 * 3 * 5 * 4
    assert padded_bytes(uneven, 7) == padded_bytes(uneven, 1) == 0


@dataclass(frozen=True)
class Stepped:
    """Each parameter's gradients and rows in a replica's optimizer; sums begun in backward."""

    gradients: dict[str, torch.Tensor | None]
    rows: dict[str, Rows | None]
    begun_early: int


def replica(group: Any, model: Odd, inputs: torch.Tensor, shards: int) -> Stepped:
    """Sum its own gradients with those of others, and gather what each has stepped by one."""
    rank, count = group.rank(), group.size()
    device = torch.device("cpu")
    layout = RankLayout((0,), replicas=count)
    world = World(rank, layout, device, Status(rank), replica_group=group)
    of_stage = [
        replace(p, stages=(0,) if p.name.startswith("layers") else (1,))
        for p in parameters_of(model)
    ]
    shard(of_stage, shards, rank)
    masters, rows = Masters(of_stage), Shards(world, of_stage)
    replicas = ReplicaGradients(count, of_stage, rows)
    replicas.last_backward_of(0)
    model(inputs.to(model.scalar.dtype)).backward()
    early = len(replicas.begun)
    replicas.reduce()
    gradients = {p.name: p.stepped.grad for p in of_stage}
    with torch.no_grad():
        for parameter in of_stage:
            parameter.stepped.add_(1.0)
    masters.refresh()
    rows.gather()
    return Stepped(gradients, {p.name: p.rows for p in of_stage}, early)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("shards", [1, 3])
def test_replicas_sum_and_gather_in_few_calls(shards: int, half: bool, monkeypatch: Any) -> None:
    calls: list[str] = []

    def counted(name: str, call: Any, *given: Any) -> Any:
        calls.append(name)
        return call(*given)

    for name in ("sum_whole", "sum_parts", "gather_parts"):
        monkeypatch.setattr(sharding, name, partial(counted, name, getattr(sharding, name)))
    count = 3
    torch.manual_seed(0)
    first, inputs = Odd(), torch.randn(count, 4, 6)
    models = [deepcopy(first).bfloat16() if half else deepcopy(first) for _ in range(count)]
    stepped = in_group(
        count, lambda group: replica(group, models[group.rank()], inputs[group.rank()], shards)
    )
    sum(first(own) for own in inputs).backward()
    wanted = dict(first.named_parameters())
    close = 0.2 if half else 1e-5
    for ours, model in zip(stepped, models, strict=True):
        assert ours.begun_early, "sums begin while backward runs"
        for name, gradient in ours.gradients.items():
            expected = wanted[name].grad
            if expected is None:
                assert gradient is None
                continue
            own = ours.rows[name]
            part = expected if own is None else expected[slice(*own)]
            assert (gradient - part).norm() <= close * part.norm(), name
        for name, parameter in model.named_parameters():
            assert torch.allclose(
                parameter.float(), wanted[name] + 1, atol=2e-2 if half else 1e-6
            ), name
    # One call per kind of tensor, not per tensor, but for rows that are uneven.
    assert len(calls) <= 7 * count, calls


def summed_of_experts(group: Any, hit: Sequence[int], sparse: Sequence[int]) -> list[Any]:
    """The gradients of four experts and a layer, where a replica's data reached these experts.

    `sparse` are those of them whose gradient is sparse.
    """
    layout = RankLayout((0,), replicas=group.size())
    world = World(group.rank(), layout, torch.device("cpu"), Status(0), replica_group=group)
    parameters = [
        *(weight(f"experts.{number}", beside_opaque=True) for number in range(4)),
        weight("layer"),
    ]
    for number in (*hit, 4):
        gradient = torch.full((2,), number + 1.0)
        parameters[number].master.grad = gradient.to_sparse() if number in sparse else gradient
    ReplicaGradients(group.size(), parameters, Shards(world, parameters)).reduce()
    gradients = [parameter.master.grad for parameter in parameters]
    return [None if g is None else (g.is_sparse, g.to_dense()[0].item()) for g in gradients]


def test_replicas_whose_data_reaches_other_experts_sum_the_same_gradients() -> None:
    """As many on each replica, so that a sum of what is there would add up different experts."""
    hits, sparse = [(0, 1), (1, 3)], [(0, 1), ()]
    sums = in_group(
        2, lambda group: summed_of_experts(group, hits[group.rank()], sparse[group.rank()])
    )
    assert sums == [[(True, 1.0), (False, 4.0), None, (False, 4.0), (False, 10.0)]] * 2


class Sums(Shards):
    """Notes what would be summed, in order."""

    def __init__(self, world: World) -> None:
        super().__init__(world, [])
        self.summed: list[str] = []

    def sum(self, parameters: Sequence[RankParameter]) -> list[Collective]:
        self.summed += [parameter.name for parameter in parameters]
        return []


def replicas_of(*parameters: RankParameter) -> tuple[ReplicaGradients, Sums]:
    sums = Sums(chain_worlds(made_plan(1, replicas=2))[0])
    for parameter in parameters:
        parameter.master.grad = torch.ones(2)
    return ReplicaGradients(2, parameters, sums), sums


def weight(name: str, **fields: Any) -> RankParameter:
    """A parameter of stage 0."""
    return rank_parameter(nn.Parameter(torch.ones(2)), name, **fields)


def test_a_bucket_is_summed_once_all_its_gradients_are_whole() -> None:
    first, second = weight("first"), weight("second")
    replicas, sums = replicas_of(first, second)
    replicas.last_backward_of(None)
    replicas.gradient_ready(first.model)
    replicas.last_backward_of(0)
    replicas.gradient_ready(second.model)
    assert not sums.summed, "an earlier backward's gradient is not whole"
    replicas.gradient_ready(first.model)
    assert sums.summed == ["second", "first"]
    replicas.reduce()
    assert sums.summed == ["second", "first"]


def test_a_stage_that_ended_is_summed_even_where_a_gradient_never_came() -> None:
    unused = weight("unused")
    replicas, sums = replicas_of(weight("used"), unused, weight("other", stages=(1,)))
    unused.master.grad = None
    replicas.last_backward_of(0)
    replicas.last_backward_of(1)
    assert sums.summed == ["used"]
    replicas.reduce()
    assert sums.summed == ["used", "other"]


def test_where_the_data_decides_replicas_compare_once_a_stage_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[list[int]] = []
    monkeypatch.setattr(dist, "all_reduce", lambda of, *_, **__: compared.append(of.tolist()))
    used, unused = weight("used", beside_opaque=True), weight("unused", beside_opaque=True)
    replicas, sums = replicas_of(used, unused, weight("other", stages=(1,)))
    unused.master.grad = None
    replicas.last_backward_of(0)
    replicas.gradient_ready(used.model)
    assert not compared and not sums.summed
    replicas.last_backward_of(1)
    assert compared == [[0, 2]] and sums.summed == ["used"]
    replicas.reduce()
    assert len(compared) == 1 and sums.summed == ["used", "other"]


def test_shared_parameters_are_summed_at_the_end() -> None:
    both, tied = weight("both", stages=(0, 1)), weight("tied", tied_ranks=(0, 2))
    replicas, sums = replicas_of(both, weight("own"), tied)
    replicas.last_backward_of(0)
    for parameter in (both, tied):
        replicas.gradient_ready(parameter.model)
    replicas.last_backward_of(None)
    assert sums.summed == ["own"]
    replicas.reduce()
    assert sums.summed == ["own", "both", "tied"]


def test_every_step_begins_anew() -> None:
    replicas, sums = replicas_of(weight("weight"))
    for _ in range(2):
        replicas.last_backward_of(0)
        replicas.gradient_ready(next(iter(replicas.unshared)))
        replicas.reduce()
    assert sums.summed == ["weight", "weight"]


def test_one_replica_sums_nothing() -> None:
    parameter = weight("weight")
    replicas = ReplicaGradients(1, [parameter], Sums(chain_worlds(made_plan(1))[0]))
    replicas.last_backward_of(0)
    replicas.gradient_ready(parameter.model)
    replicas.reduce()
    assert not replicas.summed and not replicas.buckets
