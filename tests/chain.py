"""The chain of tests/plans.py as modules, and ranks of it as threads: a pipeline without a compile.

Each stage multiplies by its weight; the last one's loss is the mean square of what it gets.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipecut.compiler.schedules.lower import lower
from pipecut.compiler.schedules.registry import orders
from pipecut.plan import channels as plan_channels
from pipecut.plan.actions import Action
from pipecut.plan.schema import Plan
from pipecut.runtime.engine.engine import Engine, Work
from pipecut.runtime.engine.stage import RunningStage
from pipecut.runtime.engine.transport import Transport
from pipecut.runtime.gradients.masters import Masters
from pipecut.runtime.gradients.parameters import rank_parameters
from pipecut.runtime.gradients.replicas import ReplicaGradients
from pipecut.runtime.gradients.shards import Shards
from pipecut.runtime.gradients.tied import TiedGradients
from pipecut.runtime.health.status import Status
from pipecut.runtime.ranks.world import World

CPU = torch.device("cpu")


class Multiply(nn.Module):
    """A stage of the chain, whose weight has the unsplit model's name."""

    def __init__(self, index: int, last: bool) -> None:
        super().__init__()
        self.index, self.last = index, last
        self.layers = nn.ModuleDict({str(index): nn.Linear(4, 4, bias=False)})
        self.calls = 0

    def forward(
        self, x: torch.Tensor, outputs: dict[str, torch.Tensor] | None = None
    ) -> list[torch.Tensor]:
        """What the next stage needs, or the loss."""
        self.calls += 1
        x = torch.tanh(self.layers[str(self.index)](x))
        if outputs is not None:
            outputs["hidden"] = x
        return [x.square().mean() if self.last else x]


def chain_modules(plan: Plan) -> dict[int, Multiply]:
    """A module for each stage, with weights that depend on the stage alone."""
    modules = {}
    for stage in plan.stages:
        torch.manual_seed(stage.index)
        modules[stage.index] = Multiply(stage.index, stage.index == len(plan.stages) - 1)
    return modules


def unsplit_gradients(plan: Plan, x: torch.Tensor) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients by name of the same modules, one after the other."""
    modules, hidden = chain_modules(plan), x
    for module in modules.values():
        (hidden,) = module(hidden)
    hidden.backward()
    named = [pair for module in modules.values() for pair in module.named_parameters()]
    return float(hidden.detach()), {name: p.grad for name, p in named if p.grad is not None}


class Channel:
    """One direction between two ranks: the i-th receive that is posted gets the i-th message."""

    def __init__(self) -> None:
        self.sent: list[torch.Tensor] = []
        self.posted = 0
        self.arrival = threading.Condition()

    def put(self, tensor: torch.Tensor) -> None:
        """Send a copy."""
        with self.arrival:
            self.sent.append(tensor.clone())
            self.arrival.notify_all()

    def get(self, number: int) -> torch.Tensor:
        """Wait for a message."""
        with self.arrival:
            assert self.arrival.wait_for(lambda: len(self.sent) > number, timeout=10)
            return self.sent[number]


class Mailboxes:
    """Messages between threads, whose groups are channels."""

    def isend(self, tensor: torch.Tensor, target: int, group: Any) -> "Delivery":
        """Send at once."""
        group.put(tensor)
        return Delivery()

    def irecv(self, tensor: torch.Tensor, source: int, group: Any) -> "Delivery":
        """Fill a tensor once it is waited for."""
        number = group.posted
        group.posted += 1
        return Delivery(lambda: tensor.copy_(group.get(number)))


@dataclass
class Delivery:
    """A message on its way."""

    arrive: Callable[[], object] = lambda: None

    def wait(self) -> None:
        """Until it has arrived or left."""
        self.arrive()


def chain_worlds(plan: Plan) -> list[World]:
    """The ranks of a plan, with a channel from each to each other."""
    ranks = range(plan.layout.size)
    channels = {plan_channels.Channel(a, b): Channel() for a in ranks for b in ranks if a != b}
    worlds = [World(rank, plan.layout, CPU, Status(rank)) for rank in ranks]
    for world in worlds:
        world.channels = channels  # type: ignore[assignment]
    return worlds


def chain_actions(plan: Plan) -> list[tuple[Action, ...]]:
    """Each rank's actions under the plan's schedule, with one stage per rank."""
    count = len(plan.stages)
    stages_per_rank = count // plan.layout.pipeline_ranks
    places = [stage.pipeline_rank for stage in plan.stages]
    boundaries = range(count - 1)
    rows = lower(
        orders(plan.schedule, count, plan.microbatches, stages_per_rank),
        places,
        boundaries,
        boundaries,
        False,
    )
    return [tuple(row) for row in rows]


@dataclass
class ChainRank:
    """One rank of a chain: its engine and its modules."""

    engine: Engine
    modules: dict[int, Multiply]


def chain_rank(
    plan: Plan, world: World, actions: Sequence[Action] = (), split_backward: bool = False
) -> ChainRank:
    """A rank as Pipeline builds it, from hand-made modules."""
    stages = [plan.stages[index] for index in plan.layout.stages_of(world.pipeline_rank)]
    every_module = chain_modules(plan)
    modules = {stage.index: every_module[stage.index] for stage in stages}
    parameters = rank_parameters(plan, world, modules)
    masters = Masters(parameters)
    replicas = ReplicaGradients(plan.replicas, parameters, Shards(world, parameters))
    running = [
        RunningStage(plan, s, modules[s.index], masters, split_backward, replicas.gradient_ready)
        for s in stages
    ]
    engine = Engine(
        world.rank,
        tuple(actions),
        running,
        Transport(plan, world, Mailboxes()),
        TiedGradients(world, parameters),
        replicas,
        world.status,
    )
    return ChainRank(engine, modules)


def chain_work(plan: Plan, x: torch.Tensor) -> Work:
    """Every microbatch of a batch, weighted by its samples."""
    parts = list(torch.split(x, plan.batch.microbatch))
    sizes = [{"batch": len(part)} for part in parts]
    weights = [len(part) / len(x) for part in parts]
    return Work([{"x": part} for part in parts], sizes, weights)


def in_threads(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each call returns, all at once. Raises the first error."""
    results: list[Any] = [None] * len(calls)

    def run(index: int) -> None:
        try:
            results[index] = calls[index]()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "a rank stands still"
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results
