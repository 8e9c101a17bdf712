"""A step of several ranks with a run of it, made by hand: what Timeline and Memory draw."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pipecut.compiler.schedules.lower import lower
from pipecut.compiler.schedules.registry import orders, pipeline_ranks_of
from pipecut.plan.actions import Send, kind_of, microbatch_of, stage_of
from pipecut.plan.folder import PlanFolder
from pipecut.plan.replay.simulate import Timeline, costs_of, simulate
from pipecut.plan.schema import Batch, Prediction
from pipecut.view.sources import RunReport, RunRow, Sources, Span
from tests.graphs import made_graph, with_peaks
from tests.plans import made_plan, made_stage


def made_step(
    ranks: int = 4, microbatches: int = 8, schedule: str = "1f1b", **fields: Any
) -> PlanFolder:
    """A plan of a stage per rank; `fields` are those of every stage."""
    layout = pipeline_ranks_of(schedule, ranks, 1)
    between = set(range(ranks - 1))
    actions = lower(orders(schedule, ranks, microbatches, 1), layout, between, between, reduce=True)
    batch = Batch(global_size=2 * microbatches, microbatch=2, dynamic=True)
    stages = [made_stage(index, ranks, **fields) for index in range(ranks)]
    plan = with_peaks(made_plan(ranks, batch=batch, stages=stages, schedule=schedule), actions)
    timeline = simulate(actions, costs_of(plan))
    prediction = Prediction(step_seconds=timeline.step_seconds, bubble=timeline.bubble)
    plan = plan.model_copy(update={"prediction": prediction})
    return PlanFolder(Path("plan"), plan, actions, made_graph(ranks))


def made_run(folder: PlanFolder, slower: float = 1.25, memory: int = 500) -> Sources:
    """The plan with a run whose forwards take longer than predicted by a factor."""
    plan = folder.plan
    costs = costs_of(plan)
    costs = replace(costs, forward=[slower * seconds for seconds in costs.forward])
    timeline = simulate(folder.actions, costs)
    rows = tuple(
        RunRow(
            rank=rank,
            stage=stage.index,
            forward=slower * stage.forward_seconds,
            backward=stage.backward_seconds,
            wait=0.0,
            send=0.0,
            memory=memory,
        )
        for rank in range(plan.ranks)
        for stage in plan.stages_on(rank)
    )
    report = RunReport(
        predicted_step=plan.prediction.step_seconds,
        measured_step=timeline.step_seconds,
        predicted=rows,
        measured=rows,
    )
    return Sources(folder, report, spans_of(timeline))


def spans_of(timeline: Timeline) -> tuple[Span, ...]:
    """A step as a trace has it."""
    return tuple(
        Span(
            event.rank,
            "SEND" if isinstance(event.action, Send) else kind_of(event.action),
            stage_of(event.action),
            microbatch_of(event.action),
            event.start,
            event.end,
        )
        for event in timeline.events
    )
