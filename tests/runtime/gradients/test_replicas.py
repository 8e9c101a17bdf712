"""Replicas sum their gradients, and gather what each has stepped, in few calls."""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import timedelta
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
from pipecut.runtime.gradients.masters import Masters
from pipecut.runtime.gradients.parameters import parameters_of
from pipecut.runtime.gradients.replicas import ReplicaGradients
from pipecut.runtime.gradients.shards import Shards, shard
from pipecut.runtime.health.status import Status
from pipecut.runtime.ranks.world import World


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


def joined(store: Any, rank: int, count: int) -> Any:
    """A process group of threads, over gloo."""
    options = dist.ProcessGroupGloo._Options()
    options._devices = [dist.ProcessGroupGloo.create_device(interface="lo")]
    options._timeout = timedelta(seconds=30)
    group = dist.ProcessGroup(store, rank, count)
    backend, kind = (
        dist.ProcessGroupGloo(store, rank, count, options),
        dist.ProcessGroup.BackendType.GLOO,
    )
    group._set_default_backend(kind)
    group._register_backend(torch.device("cpu"), kind, backend)
    return group


@dataclass(frozen=True)
class Stepped:
    """What a replica's optimizer has of each parameter: gradients and rows; sums begun in backward."""

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
    store, count = dist.HashStore(), 3
    torch.manual_seed(0)
    first, inputs = Odd(), torch.randn(count, 4, 6)
    models = [deepcopy(first).bfloat16() if half else deepcopy(first) for _ in range(count)]
    with ThreadPoolExecutor(count) as pool:
        groups = list(pool.map(lambda rank: joined(store, rank, count), range(count)))
        each = [(groups[r], models[r], inputs[r], shards) for r in range(count)]
        stepped = list(pool.map(lambda arguments: replica(*arguments), each))
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
    # A replica makes a call for each kind of tensor, not for each tensor, but for rows that are uneven.
    assert len(calls) <= 7 * count, calls
