"""A rank's place in the world, how it joins one of one rank, and what it refuses."""

import pytest
import torch
from torch.distributed import HashStore

from pipecut.errors import RunError
from pipecut.plan.layout import RankLayout
from pipecut.runtime.health.status import State, Status
from pipecut.runtime.ranks import world as rules
from pipecut.runtime.ranks.agree.meeting import Meeting
from pipecut.runtime.ranks.world import World, join_world, leave_world
from tests.plans import made_plan, made_stage

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of one process, whose threads stay as they are."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_replicas_of_a_pipeline_rank_are_neighbours() -> None:
    world = World(5, RankLayout((0, 1, 2, 0), 2), CPU, Status(5))
    assert (world.size, world.replicas) == (6, 2)
    assert (world.pipeline_rank, world.replica) == (2, 1)
    assert [world.rank_of(stage) for stage in range(4)] == [1, 3, 5, 1]


def test_one_rank_joins_without_any_connection() -> None:
    world = join_world(made_plan(1), None)
    assert world.device == CPU and world.heartbeat is None and world.meeting.store is None
    leave_world(world)
    leave_world(world)
    assert world.status.state is State.ENDED


@pytest.mark.parametrize(("started", "count"), [("1", "1 was"), ("3", "3 were")])
def test_another_number_of_ranks_is_refused(
    started: str, count: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", started)
    with pytest.raises(RunError, match=f"the plan has 2 ranks but {count} started; start it with"):
        join_world(made_plan(2), None)


def test_a_plan_for_gpus_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "is_available", lambda kind: kind.of_host)
    gpu = made_stage(device="h100-sxm", device_type="cuda")
    with pytest.raises(RunError, match="places it on a h100-sxm, but this machine has no GPU"):
        join_world(made_plan(1, stages=[gpu]), None)
    with pytest.raises(RunError, match="--device cuda asks for one, but this machine has no GPU"):
        join_world(made_plan(1), "cuda")
    leave_world(join_world(made_plan(1, stages=[gpu]), "cpu"))


def test_a_rank_that_leaves_says_so_to_the_others() -> None:
    store = HashStore()
    status = Status(1)
    status.step = 4
    leave_world(World(1, RankLayout((0, 1)), CPU, status, meeting=Meeting(1, 2, store)))
    assert Meeting(0, 2, store).left() == "rank 1 ended after 3 steps"
