"""The view Diff: what moved between two plans, and what that changed.

Operators are the same where name, target and module are, so that plans of one model compare
whatever their sizes; of other models only the figures do.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from pipecut.plan.folder import PlanFolder
from pipecut.plan.schema import Plan
from pipecut.plan.schema.graph import PlacedOperator
from pipecut.view.facts import PlanFacts, facts_of
from pipecut.view.layers import layer_of

Unit = Literal["seconds", "bytes", "share", "count"]


@dataclass(frozen=True)
class Figure:
    """A number of both plans; `less_is_better` is None where neither is."""

    name: str
    unit: Unit
    this: float
    other: float
    less_is_better: bool | None


@dataclass(frozen=True)
class Choice:
    """Something else that the plans differ in."""

    name: str
    this: str
    other: str


@dataclass(frozen=True)
class Segment:
    """Operators in a row that are on one stage of each plan, with their seconds in this plan."""

    this: int
    other: int
    operators: int
    seconds: float
    first: str
    last: str


@dataclass(frozen=True)
class Move:
    """Layers, in a row, of which operators are on stage `this` here and on `other` there."""

    this: int
    other: int
    layers: tuple[str, ...]
    operators: int
    seconds: float


@dataclass(frozen=True)
class Diff:
    """This plan beside another. `here` and `there` count operators that the other has not."""

    other: PlanFacts
    figures: tuple[Figure, ...]
    choices: tuple[Choice, ...]
    segments: tuple[Segment, ...]
    moves: tuple[Move, ...]
    here: int
    there: int


@dataclass(frozen=True)
class _Placed:
    """An operator that both plans have."""

    operator: PlacedOperator
    this: int
    other: int
    seconds: float


def diff_of(folder: PlanFolder, other: PlanFolder | None) -> Diff | None:
    """This plan beside another; None where there is none."""
    if other is None:
        return None
    both = _in_both(folder, other)
    ordered = sorted(both, key=lambda placed: placed.this)
    return Diff(
        other=facts_of(other.plan),
        figures=figures_of(folder.plan, other.plan),
        choices=choices_of(folder.plan, other.plan),
        segments=tuple(_segments(ordered)),
        moves=tuple(_moves(ordered)),
        here=len(folder.graph.operators) - len(both),
        there=len(other.graph.operators) - len(both),
    )


def _in_both(folder: PlanFolder, other: PlanFolder) -> list[_Placed]:
    """What both plans have, in this plan's order."""
    stages = {_identity(operator): operator.stage for operator in other.graph.operators}
    return [
        _Placed(operator, operator.stage, stages[identity], _seconds(folder, operator))
        for operator in folder.graph.operators
        if (identity := _identity(operator)) in stages
    ]


def _identity(operator: PlacedOperator) -> tuple[str, str, str]:
    return operator.name, operator.target, operator.module


def _seconds(folder: PlanFolder, operator: PlacedOperator) -> float:
    device = folder.plan.stages[operator.stage].device
    return operator.forward_seconds[device] + operator.backward_seconds[device]


def _segments(ordered: Iterable[_Placed]) -> Iterator[Segment]:
    for stages, placed in groupby(ordered, key=lambda p: (p.this, p.other)):
        run = list(placed)
        yield Segment(
            *stages,
            operators=len(run),
            seconds=sum(p.seconds for p in run),
            first=_name(run[0].operator),
            last=_name(run[-1].operator),
        )


def _name(operator: PlacedOperator) -> str:
    return f"{operator.module}: {operator.name}" if operator.module else operator.name


def _moves(ordered: Iterable[_Placed]) -> Iterator[Move]:
    """From each stage to each other, the layers that went there."""
    moved: dict[tuple[int, int], list[_Placed]] = {}
    for placed in ordered:
        if placed.this != placed.other:
            moved.setdefault((placed.other, placed.this), []).append(placed)
    for (other, this), run in sorted(moved.items()):
        yield Move(
            this=this,
            other=other,
            layers=tuple(dict.fromkeys(layer_of(placed.operator.module) for placed in run)),
            operators=len(run),
            seconds=sum(placed.seconds for placed in run),
        )


def figures_of(plan: Plan, other: Plan) -> tuple[Figure, ...]:
    """Numbers of both plans."""
    rows: tuple[tuple[str, Unit, bool | None], ...] = (
        ("predicted step", "seconds", True),
        ("seconds per sample", "seconds", True),
        ("bubble", "share", True),
        ("slowest stage", "seconds", True),
        ("bound", "seconds", None),
        ("fullest memory", "share", None),
        ("most bytes on a rank", "bytes", None),
        ("sent per microbatch", "bytes", True),
        ("ranks", "count", None),
        ("stages", "count", None),
        ("stages that recompute", "count", None),
    )
    numbers, others = _numbers(plan), _numbers(other)
    return tuple(
        Figure(name, unit, numbers[name], others[name], better) for name, unit, better in rows
    )


def _numbers(plan: Plan) -> dict[str, float]:
    taken = [stage.peak_bytes + stage.outside_bytes for stage in plan.stages]
    shares = (
        size / max(stage.device_bytes, 1) for size, stage in zip(taken, plan.stages, strict=True)
    )
    step = plan.prediction.step_seconds
    return {
        "predicted step": step,
        "seconds per sample": step / plan.batch.global_size,
        "bubble": plan.prediction.bubble,
        "slowest stage": plan.certificate.objective,
        "bound": plan.certificate.bound,
        "fullest memory": max(shares),
        "most bytes on a rank": max(taken),
        "sent per microbatch": sum(stage.bytes_sent for stage in plan.stages),
        "ranks": plan.ranks,
        "stages": len(plan.stages),
        "stages that recompute": sum(stage.recompute for stage in plan.stages),
    }


def choices_of(plan: Plan, other: Plan) -> tuple[Choice, ...]:
    """What the plans were made for, where it differs."""
    here, there = _choices(plan), _choices(other)
    return tuple(
        Choice(name, here[name], there[name]) for name in here if here[name] != there[name]
    )


def _choices(plan: Plan) -> dict[str, str]:
    return {
        "model": plan.model.factory,
        "arguments": ", ".join(f"{key}={value!r}" for key, value in plan.model.args.items()),
        "cluster": plan.cluster,
        "devices": ", ".join(dict.fromkeys(stage.device for stage in plan.stages)),
        "schedule": plan.schedule,
        "batch": f"{plan.batch.global_size}, {plan.batch.microbatch} per microbatch",
        "replicas": str(plan.replicas),
        "precision": plan.model.precision,
        "optimizer": str(plan.optimizer) + (", sharded" if plan.shard_optimizer else ""),
        "code": plan.compile,
        "proven": "optimal" if plan.certificate.proven else f"gap {plan.certificate.gap:.2%}",
        "costs": next((note for note in plan.notes if note.startswith("costs: ")), ""),
    }
