"""Ranks of a hand-made chain, as threads: every schedule computes what the unsplit chain does."""

from dataclasses import replace

import pytest
import torch

from pipecut.compiler.schedules.registry import pipeline_ranks_of
from pipecut.errors import RunError
from pipecut.plan.actions import splits_backward
from pipecut.plan.forward_only import forward_only
from pipecut.plan.schema import Plan
from pipecut.runtime.engine.recorder import Recorder
from pipecut.runtime.health.status import State
from tests.chain import (
    CPU,
    ChainRank,
    chain_actions,
    chain_rank,
    chain_work,
    chain_worlds,
    in_threads,
    unsplit_gradients,
)
from tests.plans import made_plan, made_stage

BATCH = torch.linspace(-1, 1, 32).view(8, 4)


def scheduled(schedule: str, ranks: int, stages_per_rank: int = 1, recompute: bool = False) -> Plan:
    """A chain on the ranks of a schedule."""
    count = ranks * stages_per_rank
    places = pipeline_ranks_of(schedule, count, stages_per_rank)
    stages = [
        made_stage(index, count, pipeline_rank=place, recompute=recompute)
        for index, place in enumerate(places)
    ]
    return made_plan(count, schedule=schedule, stages=stages)


def ranks_of(plan: Plan) -> list[ChainRank]:
    rows = chain_actions(plan)
    return [
        chain_rank(
            plan, world, rows[world.pipeline_rank], splits_backward(rows[world.pipeline_rank])
        )
        for world in chain_worlds(plan)
    ]


def step(plan: Plan, ranks: list[ChainRank]) -> float:
    losses = in_threads([lambda r=r: r.engine.run(chain_work(plan, BATCH)) for r in ranks])
    (loss,) = [loss for loss in losses if loss is not None]
    return float(loss)


@pytest.mark.parametrize(
    "plan",
    [
        scheduled("1f1b", 1),
        scheduled("1f1b", 3),
        scheduled("gpipe", 2),
        scheduled("gpipe", 2, recompute=True),
        scheduled("zb-h1", 3),
        scheduled("zb-h1", 2, recompute=True),
        scheduled("interleaved", 2, stages_per_rank=2),
        scheduled("v-shaped", 2, stages_per_rank=2),
    ],
    ids=lambda plan: f"{plan.schedule}-{len(plan.stages)}-{plan.stages[0].recompute}",
)
def test_a_chain_computes_what_it_does_unsplit(plan: Plan) -> None:
    ranks = ranks_of(plan)
    loss, expected = unsplit_gradients(plan, BATCH)
    for accumulated in (1, 2):
        assert step(plan, ranks) == pytest.approx(loss, rel=1e-5)
        for rank in ranks:
            for module in rank.modules.values():
                for name, parameter in module.named_parameters():
                    assert parameter.grad is not None
                    torch.testing.assert_close(parameter.grad, accumulated * expected[name])


def test_every_rank_ends_a_step_without_messages_on_their_way() -> None:
    plan = scheduled("1f1b", 3)
    ranks = ranks_of(plan)
    step(plan, ranks)
    for rank in ranks:
        transport = rank.engine.transport
        assert not transport.arriving and not transport.leaving
        assert not any(stage.live for stage in rank.engine.stages.values())
        assert rank.engine.status.state is State.WAITING


def test_a_stage_that_recomputes_runs_its_forward_twice() -> None:
    for recompute, calls in ((False, 4), (True, 8)):
        plan = scheduled("gpipe", 1, recompute=recompute)
        (rank,) = ranks_of(plan)
        step(plan, [rank])
        assert rank.modules[0].calls == calls


def test_evaluation_takes_any_number_of_microbatches_and_makes_no_gradients() -> None:
    plan = scheduled("1f1b", 2)
    ranks = ranks_of(plan)
    batch = torch.linspace(-1, 1, 28).view(7, 4)
    work = chain_work(plan, batch)

    def evaluate(rank: ChainRank, pipeline_rank: int) -> torch.Tensor | None:
        with torch.no_grad():
            return rank.engine.evaluate(work, forward_only(plan, pipeline_rank, len(work.samples)))

    losses = in_threads([lambda r=r, p=p: evaluate(r, p) for p, r in enumerate(ranks)])
    assert losses[0] is None and float(losses[1]) == pytest.approx(
        unsplit_gradients(plan, batch)[0], rel=1e-5
    )
    assert all(p.grad is None for r in ranks for m in r.modules.values() for p in m.parameters())


def test_outputs_beside_the_loss_are_put_where_they_are_wanted() -> None:
    stages = [
        made_stage(0, 1, outputs=[{"name": "hidden", "shape": ["batch", 4], "dtype": "float32"}])
    ]
    plan = made_plan(1, stages=stages)
    (rank,) = ranks_of(plan)
    outputs: list[dict[str, torch.Tensor]] = [{} for _ in range(4)]
    work = replace(chain_work(plan, BATCH), outputs=outputs)
    rank.engine.evaluate(work, forward_only(plan, 0, 4))
    assert [part["hidden"].shape for part in outputs] == [(2, 4)] * 4


def test_the_loss_scale_multiplies_gradients_and_not_the_loss() -> None:
    plan = scheduled("1f1b", 1)
    (rank,) = ranks_of(plan)
    loss = rank.engine.run(replace(chain_work(plan, BATCH), scale=8.0))
    wanted, expected = unsplit_gradients(plan, BATCH)
    assert loss is not None and float(loss) == pytest.approx(wanted, rel=1e-5)
    (parameter,) = rank.modules[0].parameters()
    torch.testing.assert_close(parameter.grad, 8.0 * expected["layers.0.weight"])


def test_an_error_names_rank_action_and_cause() -> None:
    plan = scheduled("1f1b", 1)
    (rank,) = ranks_of(plan)
    rank.engine.stages[0].module.forward = lambda *_: 1 / 0  # type: ignore[assignment, return-value]
    with pytest.raises(RunError, match=r"rank 0, action 'F 0.0': .*division by zero"):
        rank.engine.run(chain_work(plan, BATCH))


def test_a_recorder_sees_every_action_in_order() -> None:
    plan = scheduled("1f1b", 1)
    (rank,) = ranks_of(plan)
    rank.engine.recorder = Recorder(CPU)
    step(plan, [rank])
    records = rank.engine.recorder.take()
    assert [record.action for record in records if not record.waited] == list(rank.engine.actions)
    assert all(record.start <= record.end for record in records)
