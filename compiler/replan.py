"""A plan for the devices that remain once one was lost."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipecut.compiler.exchange.imported import compiled_schedule
from pipecut.compiler.exchange.layout_price import LAYOUT
from pipecut.compiler.inputs.auto import AUTO, Auto
from pipecut.compiler.inputs.layout import NO_LAYOUT
from pipecut.compiler.passes import compile_plan, silent
from pipecut.compiler.request import Options, Request
from pipecut.compiler.search.sizes import SizeOverrides
from pipecut.errors import InfeasibleError, UserFileError
from pipecut.plan.folder import plan_in
from pipecut.plan.schema import TRUSTED, Plan

# Between a plan's name and the devices that its successor does without.
WITHOUT = "-without-"


def replan(path: Path, lost_rank: int, progress: Callable[[str], None] = silent) -> Path:
    """Compile a plan's job again without the device of one of its ranks, into a folder beside it.

    Microbatch and schedule stay; stages and replicas only where they fit on what remains. Raises
    what `compile_plan` does, and UserFileError for a plan that does not say what it was compiled
    from.
    """
    plan = plan_in(path)
    source = plan.source
    if source is None:
        raise UserFileError(
            f"{path} does not say which job it is of, so it cannot be planned again; compile it "
            "with pipecut"
        )
    lost = (*source.lost, source.devices[lost_rank])
    remaining = source.available - len(lost)
    if remaining < 1:
        raise InfeasibleError(
            f"{path}: rank {lost_rank} was on the last device of {source.cluster}; none remains"
        )
    target = folder_without(path, lost)
    for note in _not_kept(plan):
        progress(f"not kept for the devices that remain: {note}")
    trusted = plan.trace.how == TRUSTED
    sizes = sizes_for(plan, remaining)
    options = Options(sizes, lost=lost, layout=NO_LAYOUT, trust_trace=trusted)
    compile_plan(Request(Path(source.job), source.cluster, target, options), progress)
    return target


def _not_kept(plan: Plan) -> Iterator[str]:
    """What a plan for fewer devices cannot have: a schedule or a cut that was made for all."""
    if plan.schedule != compiled_schedule(plan):
        yield f"schedule {plan.schedule}"
    yield from (note for note in plan.notes if note.startswith(LAYOUT))


def sizes_for(plan: Plan, remaining: int) -> SizeOverrides:
    """The plan's sizes on so many devices.

    Where its ranks do not fit, a plan with one replica has a stage less for each rank that is
    missing; of one with several the search decides.
    """
    fits = plan.ranks <= remaining
    ranks = plan.layout.pipeline_ranks
    stages_per_rank = len(plan.stages) // ranks
    stages: int | Auto = len(plan.stages)
    replicas: int | Auto = plan.replicas
    if not fits and plan.replicas == 1:
        stages = min(ranks, remaining) * stages_per_rank
    elif not fits:
        stages = replicas = AUTO
    return SizeOverrides(
        stages,
        replicas,
        plan.batch.microbatch,
        None,
        compiled_schedule(plan),
        stages_per_rank,
    )


def folder_without(path: Path, lost: Sequence[int]) -> Path:
    """`plan-without-3-5` beside `plan`, and beside `plan-without-3`."""
    name = path.name.split(WITHOUT)[0]
    return path.with_name(f"{name}{WITHOUT}{'-'.join(map(str, lost))}")
