"""A plan as text: columns of its stages, and lines about the whole."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipecut.quantities import show_bytes, show_seconds
from pipecut.text_table import text_table

if TYPE_CHECKING:
    from pipecut.plan.schema.plan import Plan
    from pipecut.plan.schema.stage import Stage


@dataclass(frozen=True)
class Column:
    """One thing about every stage; numbers stand at the right."""

    title: str
    cells: tuple[str, ...]
    right: bool = True


def title_of(plan: "Plan") -> str:
    """`model on cluster: schedule, microbatches`."""
    replicas = f", {plan.replicas} replicas" if plan.replicas > 1 else ""
    return (
        f"{plan.model.factory} on {plan.cluster}: {plan.schedule}, "
        f"{plan.microbatches} microbatches of {plan.batch.microbatch}{replicas}"
    )


def columns_of(plan: "Plan") -> list[Column]:
    """What is shown of the stages; ranks and recompute only where they say something."""
    stages = plan.stages
    columns = [Column("stage", tuple(str(stage.index) for stage in stages))]
    if len(stages) > len({stage.pipeline_rank for stage in stages}):
        columns.append(Column("rank", tuple(str(stage.pipeline_rank) for stage in stages)))
    columns += [
        Column("device", tuple(stage.device for stage in stages), right=False),
        Column("modules covered", tuple(", ".join(s.modules) for s in stages), right=False),
        Column("parameters", tuple(f"{stage.parameter_count:,}" for stage in stages)),
        Column("forward", tuple(show_seconds(stage.forward_seconds) for stage in stages)),
        Column("backward", tuple(show_seconds(stage.backward_seconds) for stage in stages)),
    ]
    if any(stage.recompute for stage in stages):
        columns.append(Column("recompute", tuple(map(_recompute, stages))))
    columns += [
        Column("peak memory", tuple(map(_memory, stages))),
        Column("sends", tuple(show_bytes(stage.bytes_sent) for stage in stages)),
    ]
    return columns


def summary_of(plan: "Plan") -> Iterator[str]:
    """The bottleneck with what is proven of it, the predicted step, tied parameters and notes."""
    certificate = plan.certificate
    verdict = "proven optimal" if certificate.proven else f"gap {certificate.gap:.2%}"
    yield (
        f"bottleneck {show_seconds(certificate.objective)} per microbatch, "
        f"bound {show_seconds(certificate.bound)}, {verdict} "
        f"({certificate.solver}, {certificate.seconds:.1f} s)"
    )
    prediction = plan.prediction
    yield (
        f"predicted step {show_seconds(prediction.step_seconds)}, bubble {prediction.bubble:.0%}"
    )
    for tied in plan.tied:
        yield f"tied: {' = '.join(tied.names)} on stages {', '.join(map(str, tied.stages))}"
    for note in plan.notes:
        yield f"note: {note}"


def text_of(plan: "Plan") -> str:
    """All of it as plain text."""
    columns = columns_of(plan)
    rows = list(zip(*(column.cells for column in columns), strict=True))
    table = text_table([column.title for column in columns], rows)
    return "\n".join([title_of(plan), table, *summary_of(plan)])


def _recompute(stage: "Stage") -> str:
    return f"+{show_seconds(stage.forward_seconds)}" if stage.recompute else ""


def _memory(stage: "Stage") -> str:
    taken = stage.peak_bytes + stage.outside_bytes
    share = taken / max(stage.device_bytes, 1)
    return f"{show_bytes(taken)} of {show_bytes(stage.device_bytes)} ({share:.0%})"
