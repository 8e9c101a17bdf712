"""Groups are opened in the plan's order, each by the ranks in it: without any connection."""

from typing import Any, cast

import pytest
import torch
import torch.distributed as dist

from pipecut.plan.channels import Channel, Group
from pipecut.plan.layout import RankLayout
from pipecut.runtime.health.status import Status
from pipecut.runtime.ranks import channels
from pipecut.runtime.ranks.channels import open_channels, open_groups
from pipecut.runtime.ranks.world import World
from tests.plans import made_plan

LAYOUT = RankLayout((0, 1, 2))
GROUPS = [
    Group("all", (0, 1, 2)),
    Group("channel", (0, 1)),
    Group("channel", (1, 0)),
    Group("channel", (1, 2)),
    Group("tied", (0, 2)),
    Group("replicas", (1,)),
]


class Done:
    def wait(self) -> None:
        """Nothing is on its way."""


class Noted:
    """Messages that go nowhere."""

    def __init__(self) -> None:
        self.uses: list[str] = []

    def isend(self, tensor: torch.Tensor, target: int, group: Any) -> Done:
        self.uses.append(f"send to {target} over {group}")
        return Done()

    def irecv(self, tensor: torch.Tensor, source: int, group: Any) -> Done:
        self.uses.append(f"receive from {source} over {group}")
        return Done()


def world_of(rank: int) -> World:
    return World(rank, LAYOUT, torch.device("cpu"), Status(rank))


def opened(rank: int, monkeypatch: pytest.MonkeyPatch) -> tuple[World, list[str]]:
    messages, world = Noted(), world_of(rank)
    monkeypatch.setattr(
        dist, "all_reduce", lambda element, group: messages.uses.append(f"sum over {group}")
    )
    # A name takes the place of a process group; that of all ranks is torch's own.
    names = {g: None if g.kind == "all" else f"{g.kind} {g.ranks}" for g in GROUPS}
    open_groups(cast(Any, names), world, messages)
    return world, messages.uses


def test_a_rank_opens_its_groups_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    world, uses = opened(1, monkeypatch)
    assert uses == [
        "sum over None",
        "receive from 0 over channel (0, 1)",
        "send to 0 over channel (1, 0)",
        "send to 2 over channel (1, 2)",
        "sum over replicas (1,)",
    ]
    assert list(world.channels) == [Channel(0, 1), Channel(1, 0), Channel(1, 2)]
    assert cast(Any, world.replica_group) == "replicas (1,)" and not world.tied


def test_a_group_of_other_ranks_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    world, uses = opened(2, monkeypatch)
    assert uses == ["sum over None", "receive from 1 over channel (1, 2)", "sum over tied (0, 2)"]
    assert list(world.tied) == [(0, 2)] and world.replica_group is None


def test_channels_are_made_once_by_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[list[int]] = []

    def new_group(ranks: list[int], timeout: object, pg_options: object) -> str:
        made.append(ranks)
        return "group"

    monkeypatch.setattr(channels.dist, "new_group", new_group)
    monkeypatch.setattr(dist, "all_reduce", lambda element, group: None)
    plan = made_plan(2)
    world = World(0, plan.layout, torch.device("cpu"), Status(0))
    open_channels(plan, world, Noted())
    assert sorted(map(tuple, made)) == [(0, 1), (1, 0)]
    open_channels(plan, world, Noted())
    assert len(made) == 2


def test_a_rank_alone_needs_no_channel() -> None:
    plan = made_plan(1)
    world = World(0, plan.layout, torch.device("cpu"), Status(0))
    open_channels(plan, world)
    assert not world.channels
