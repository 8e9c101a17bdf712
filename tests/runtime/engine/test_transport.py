"""Steps under NCCL's rules, emulated over gloo: exact, and never stuck."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.compiler.schedules.lower import lower
from pipecut.compiler.schedules.registry import SCHEDULES, orders, pipeline_ranks_of
from pipecut.errors import PlanError, RunError
from pipecut.plan.actions import Action, parse_action
from pipecut.plan.channels import Channel, Group, channels, groups_of, in_phases
from pipecut.plan.folder import PlanFolder
from pipecut.plan.forward_only import forward_only
from pipecut.plan.part.read import PlanPart
from pipecut.plan.replay.deadlock import check_opening
from pipecut.runtime.engine.transport import Transport
from pipecut.runtime.health.status import Status
from pipecut.runtime.pipeline import Pipeline
from pipecut.runtime.ranks.channels import open_groups
from pipecut.runtime.ranks.world import World
from tests.conftest import SLOW_CORES
from tests.models.core import mlp, vectors
from tests.programs.emulated import Lagging, Nccl

STAGES = 6
Rows = Sequence[Sequence[Action]]


@pytest.fixture(scope="module")
def six(tmp_path_factory: Any) -> PlanFolder:
    """Six stages, which each schedule's ranks share in its own way."""
    path: Path = tmp_path_factory.mktemp("six")
    (path / "cluster.yaml").write_text(SLOW_CORES)
    text = 'model: {factory: "tests.models.core:mlp"}\ninputs: "tests.models.core:vectors"\n'
    (path / "job.yaml").write_text(text + "batch: {global: 8, microbatch: 2}\n")
    sizes = Options(SizeOverrides(stages=STAGES))
    return compile(path / "job.yaml", str(path / "cluster.yaml"), path / "plan", sizes)


def scheduled(folder: PlanFolder, schedule: str, per_rank: int = 1) -> PlanFolder:
    """Its six stages on the ranks of a schedule, for one microbatch a rank."""
    stages_per_rank = SCHEDULES[schedule].stages_per_rank or 2
    places = pipeline_ranks_of(schedule, STAGES, stages_per_rank)
    pairs = zip(folder.plan.stages, places, strict=True)
    stages = [stage.model_copy(update={"pipeline_rank": rank}) for stage, rank in pairs]
    plan = folder.plan.model_copy(update={"stages": stages, "schedule": schedule})
    found = replace(folder, plan=plan)
    return replace(found, actions=actions_of(found, plan.ranks * per_rank))


def actions_of(folder: PlanFolder, microbatches: int) -> tuple[tuple[Action, ...], ...]:
    """Of the plan's schedule for that many microbatches."""
    plan, stages_per_rank = folder.plan, STAGES // folder.plan.ranks
    over, places = range(STAGES - 1), [stage.pipeline_rank for stage in folder.plan.stages]
    rows = lower(
        orders(plan.schedule, STAGES, microbatches, stages_per_rank), places, over, over, False
    )
    return tuple(map(tuple, rows))


@dataclass
class Ranks:
    """A pipeline whose ranks are threads of this process."""

    pipes: list[Pipeline]

    def each(self, work: Callable[[Pipeline], Any], limit: float = 30.0) -> list[Any]:
        """What every rank returns. Raises the first error; fails where one does not end."""
        found: list[Any] = [None] * len(self.pipes)

        def one(rank: int) -> None:
            try:
                found[rank] = work(self.pipes[rank])
            except Exception as error:
                found[rank] = error

        threads = [threading.Thread(target=one, args=(r,), daemon=True) for r in range(len(found))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(limit)
            assert not thread.is_alive(), "a rank stands still"
        for result in found:
            if isinstance(result, Exception):
                raise result
        return found

    def step(self, rows: Rows, batch: dict[str, torch.Tensor]) -> float:
        """Forward and backward; the loss."""

        def one(pipe: Pipeline) -> torch.Tensor | None:
            pipe.engine.actions = tuple(rows[pipe.world.rank])
            return pipe.engine.run(pipe.splitter.for_evaluation(batch))

        return self._loss(one)

    def evaluate(self, batch: dict[str, torch.Tensor]) -> float:
        """Forward alone; the loss."""

        def one(pipe: Pipeline) -> torch.Tensor | None:
            with torch.no_grad():
                work = pipe.splitter.for_evaluation(batch)
                rows = forward_only(pipe.plan, pipe.world.pipeline_rank, len(work.samples))
                return pipe.engine.evaluate(work, rows)

        return self._loss(one)

    def _loss(self, work: Callable[[Pipeline], Any]) -> float:
        (loss,) = [loss for loss in self.each(work) if loss is not None]
        return float(loss)

    def gradients(self) -> dict[str, torch.Tensor]:
        """Of all stages."""
        pairs = [pair for pipe in self.pipes for pair in pipe.named_parameters()]
        return {name: p.grad.clone() for name, p in pairs if p.grad is not None}


def start(
    folder: PlanFolder, messages: Callable[[], Nccl], seconds: float = 30.0, opened: bool = True
) -> Ranks:
    """Ranks with the channels of a plan over gloo; `opened` as a run opens them."""
    ranks, store = folder.plan.ranks, dist.HashStore()
    device = dist.ProcessGroupGloo.create_device(interface="lo")
    order = [group for group in groups_of(folder.plan) if group.kind == "channel"]
    assert {Channel(*group.ranks) for group in order} == set(channels(folder.plan))
    worlds = [World(r, folder.plan.layout, torch.device("cpu"), Status(r)) for r in range(ranks)]
    carriers = [messages() for _ in range(ranks)]

    def connect(rank: int) -> None:
        made: dict[Any, Any] = {}
        for group in order:
            made[group] = None
            if rank in group.ranks:
                own = dist.PrefixStore(str(group.ranks), store)
                options = dist.ProcessGroupGloo._Options()
                options._devices, options._timeout = [device], timedelta(seconds=seconds)
                place = sorted(group.ranks).index(rank)
                made[group] = dist.ProcessGroupGloo(own, place, 2, options)
        if opened:
            open_groups(made, worlds[rank], carriers[rank])
        worlds[rank].channels = {Channel(*g.ranks): pg for g, pg in made.items() if pg}

    threads = [threading.Thread(target=connect, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    pairs = zip(worlds, carriers, strict=True)
    return Ranks([Pipeline(part_of(folder, world), world, carrier) for world, carrier in pairs])


def part_of(folder: PlanFolder, world: World) -> PlanPart:
    """What a rank reads of a plan without numbers of messages."""
    rows = dict(enumerate(folder.actions))
    return PlanPart(
        folder.path, folder.plan, folder.graph, world.pipeline_rank, len(rows), rows, {}
    )


def unsplit(batch: dict[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the model itself."""
    torch.manual_seed(0)
    model = mlp()
    loss = model(**batch)
    loss.backward()
    return float(loss.detach()), {
        name: p.grad for name, p in model.named_parameters() if p.grad is not None
    }


def same(ranks: Ranks, loss: float, batch: dict[str, torch.Tensor]) -> None:
    """As the unsplit model; gradients are let go."""
    wanted, expected = unsplit(batch)
    found = ranks.gradients()
    assert loss == pytest.approx(wanted, rel=1e-5) and set(found) == set(expected)
    for name, gradient in found.items():
        assert torch.allclose(gradient, expected[name], rtol=1e-4, atol=1e-7), name
    for pipe in ranks.pipes:
        for parameter in pipe.parameters():
            parameter.grad = None


@pytest.mark.parametrize("messages", [Nccl, Lagging])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_is_exact_under_the_rules_of_nccl(
    schedule: str, messages: Callable[[], Nccl], six: PlanFolder
) -> None:
    folder = scheduled(six, schedule)
    ranks = start(folder, messages)
    p = folder.plan.ranks
    batch = vectors(2 * p - 1)
    assert ranks.evaluate(batch) == pytest.approx(unsplit(batch)[0], rel=1e-5)
    for microbatches in (1, 2, p, 2 * p):
        batch = vectors(2 * microbatches)
        same(ranks, ranks.step(actions_of(folder, microbatches), batch), batch)


def moved(rows: Rows, rank: int, action: str, before: str) -> Rows:
    """One action of a rank put before another one."""
    own = list(rows[rank])
    own.remove(parse_action(action, rank))
    own.insert(own.index(parse_action(before, rank)), parse_action(action, rank))
    return [own if other == rank else row for other, row in enumerate(rows)]


def test_a_first_use_that_meets_nobody_hangs_where_channels_are_not_open(six: PlanFolder) -> None:
    folder = scheduled(six, "gpipe")
    early = moved(folder.actions, 0, "RECV_B 0.0", "F 0.0")
    batch = vectors(2 * folder.plan.ranks)
    ranks = start(folder, Nccl)
    same(ranks, ranks.step(early, batch), batch)
    with pytest.raises(RunError):
        start(folder, Nccl, seconds=1.0, opened=False).step(early, batch)


def test_receives_out_of_order_get_each_others_tensors(six: PlanFolder) -> None:
    folder = scheduled(six, "gpipe")
    swapped = moved(folder.actions, 1, "RECV_F 1.1", "RECV_F 1.0")
    batch = vectors(2 * folder.plan.ranks)
    ranks = start(folder, Nccl)
    ranks.step(swapped, batch)
    name = "layers.0.0.weight"
    wanted, found = unsplit(batch)[1][name], ranks.gradients()[name]
    assert (found - wanted).norm() > 0.01 * wanted.norm()


class Careless(Transport):
    """Lets go of what it sends at once."""

    def send(self, *given: Any) -> None:
        super().send(*given)
        self.leaving.clear()


def test_a_tensor_that_is_let_go_before_it_left_is_found(six: PlanFolder) -> None:
    folder = scheduled(six, "1f1b")
    ranks = start(folder, Lagging)
    for pipe in ranks.pipes:
        pipe.engine.transport = Careless(folder.plan, pipe.world, pipe.engine.transport.messages)
    loss = ranks.step(folder.actions, vectors(2 * folder.plan.ranks))
    gradients = ranks.gradients().values()
    assert loss != loss or any(gradient.isnan().any() for gradient in gradients)


@given(st.integers(2, 9), st.data())
def test_channels_of_any_graph_open_in_one_order(ranks: int, data: Any) -> None:
    pairs = st.lists(st.integers(0, ranks - 1), min_size=2, max_size=ranks, unique=True)
    groups = in_phases(
        Group("channel", tuple(pair)) for pair in data.draw(st.lists(pairs, max_size=30))
    )
    check_opening({r: [g.ranks for g in groups if r in g.ranks] for r in range(ranks)})


def test_a_chain_opens_in_four_phases_and_a_circle_is_found() -> None:
    chain = [Group("channel", pair) for r in range(7) for pair in ((r, r + 1), (r + 1, r))]
    firsts = [group.ranks for group in in_phases(chain)[:4]]
    assert firsts == [(0, 1), (2, 3), (4, 5), (6, 7)]
    circle = {0: [(0, 1), (2, 0)], 1: [(1, 2), (0, 1)], 2: [(2, 0), (1, 2)]}
    with pytest.raises(PlanError, match="ranks 0, 1, 2 wait in a circle"):
        check_opening(circle)
