"""A plan's stages as text: a column for each thing that is said of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipecut.plan.schema.stage import Stage
from pipecut.quantities import show_bytes, show_seconds


@dataclass(frozen=True)
class Column:
    """One thing about every stage; numbers stand at the right."""

    title: str
    cells: tuple[str, ...]
    right: bool = True


def columns_of(stages: Sequence[Stage]) -> list[Column]:
    """What is shown of the stages; ranks and recompute only where they say something."""
    columns = [Column("stage", tuple(str(stage.index) for stage in stages))]
    if len(stages) > len({stage.pipeline_rank for stage in stages}):
        ranks = tuple(str(stage.pipeline_rank) for stage in stages)
        columns.append(Column("pipeline rank", ranks))
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


def _recompute(stage: Stage) -> str:
    return f"+{show_seconds(stage.recompute_seconds)}" if stage.recompute else ""


def _memory(stage: Stage) -> str:
    taken = stage.taken_bytes
    share = taken / max(stage.device_bytes, 1)
    return f"{show_bytes(taken)} of {show_bytes(stage.device_bytes)} ({share:.0%})"
