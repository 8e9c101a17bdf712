"""Whether a schedule is one of a plan's ranks, stages, microbatches and backwards."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipecut.compiler.exchange.torch_csv import cell_of
from pipecut.errors import UserFileError
from pipecut.plan.actions import Compute, Op
from pipecut.plan.edit.rescheduled import costed_for_split_backward
from pipecut.plan.schema import Plan
from pipecut.quantities import counted

Computes = list[list[Compute]]


@dataclass(frozen=True)
class ImportOptions:
    """`new_messages` orders sends and receives as a compile does, whatever the file says of them.

    `whole_backward` runs W where I is, as one B, on stages that were costed for whole backwards.
    """

    new_messages: bool = False
    whole_backward: bool = False


def refuse_other_stages(plan: Plan, rows: Computes, source: Path) -> None:
    """Raises UserFileError where ranks have other stages than in the plan."""
    ranks, stages = plan.layout.pipeline_ranks, len(plan.stages)
    if len(rows) != ranks:
        raise UserFileError(
            f"{source}: has {counted(len(rows), 'row')}, and the plan "
            f"{counted(ranks, 'rank')} in a pipeline; {_compile_for(rows)}"
        )
    for rank, row in enumerate(rows):
        for stage in sorted({compute.stage for compute in row}):
            home = plan.layout.pipeline_rank_of[stage] if stage < stages else None
            if home != rank:
                planned = "has no such stage" if home is None else f"has it on rank {home}"
                raise UserFileError(
                    f"{source}:{rank + 1}: stage {stage} is on rank {rank}, and the plan "
                    f"{planned}; {_compile_for(rows)}"
                )


def _compile_for(rows: Computes) -> str:
    """The remedy: sizes with which a plan has the schedule's stages."""
    stages = 1 + max(compute.stage for row in rows for compute in row)
    per_rank = max(1, stages // len(rows))
    first = sorted({compute.stage for compute in rows[0]})
    returns = len(rows) > 1 and per_rank == 2 and first == [0, stages - 1]
    name = "v-shaped" if returns else "interleaved" if per_rank > 1 else "1f1b"
    each = f" --stages-per-rank {per_rank}" if name == "interleaved" else ""
    return f"compile with --stages {stages} --schedule {name}{each}"


def fitting_backwards(plan: Plan, rows: Computes, source: Path, options: ImportOptions) -> Computes:
    """The computes with the kind of backward that the stages were costed for.

    A whole backward is both parts, one after the other, and the other way about. Raises
    UserFileError where the parts are apart and the stages were costed for whole ones.
    """
    if costed_for_split_backward(plan):
        return [[part for compute in row for part in _in_parts(compute)] for row in rows]
    if options.whole_backward:
        kept = [[compute for compute in row if compute.op != "W"] for row in rows]
    else:
        kept = [list(_joined(row)) for row in rows]
    apart = next((c for row in kept for c in row if c.op == "W"), None)
    if apart is not None:
        raise UserFileError(
            f"{source}: {cell_of(apart)} comes later than its I, and the plan's stages were costed "
            "for whole backwards; compile with a schedule that splits them (zb-h1 has one stage "
            "per rank, v-shaped two), or run both parts at once with --whole-backward"
        )
    return [[replace(c, op="B") if c.op == "I" else c for c in row] for row in kept]


def _in_parts(compute: Compute) -> list[Compute]:
    if compute.op != "B":
        return [compute]
    return [replace(compute, op="I"), replace(compute, op="W")]


def _joined(row: Sequence[Compute]) -> Iterable[Compute]:
    """The row less each W that follows right behind its I."""
    for position, compute in enumerate(row):
        before = row[position - 1] if position else None
        if compute.op != "W" or before != replace(compute, op="I"):
            yield compute


def refuse_uneven(plan: Plan, rows: Computes, source: Path) -> None:
    """Raises UserFileError where a stage does not compute each microbatch of the plan once."""
    microbatches = 1 + max((c.microbatch for row in rows for c in row), default=-1)
    if microbatches != plan.microbatches:
        raise UserFileError(
            f"{source}: has {counted(microbatches, 'microbatch')}, and the plan "
            f"{plan.microbatches}; compile with --microbatches {microbatches}, or change the file"
        )
    ops: tuple[Op, ...] = ("F", "I", "W") if costed_for_split_backward(plan) else ("F", "B")
    for rank, row in enumerate(rows):
        times = Counter(row)
        for stage in plan.layout.stages_of(rank):
            for op in ops:
                for microbatch in range(microbatches):
                    count = times[Compute(op, stage, microbatch)]
                    if count != 1:
                        raise UserFileError(
                            f"{source}:{rank + 1}: {stage}{op}{microbatch} is there "
                            f"{count} times; let each stage compute each microbatch once"
                        )
