"""A plan for the devices that remain once one was lost."""

from collections.abc import Callable
from pathlib import Path

from pipecut.compiler.inputs.auto import AUTO
from pipecut.compiler.passes import compile_plan
from pipecut.compiler.request import Options, Request
from pipecut.compiler.search.sizes import SizeOverrides
from pipecut.errors import InfeasibleError, UserFileError
from pipecut.plan.folder import read_plan


def replan(path: Path, lost_rank: int, progress: Callable[[str], None] = lambda _: None) -> Path:
    """Compile a plan's job again without the device of one of its ranks, into a folder beside it.

    Microbatch and schedule stay; stages and replicas only where they fit on what remains. Raises what `compile` does, and
    UserFileError for a plan that does not say what it was compiled from.
    """
    plan = read_plan(path).plan
    source = plan.source
    if source is None:
        raise UserFileError(
            f"{path} does not say which job it is of, so it cannot be planned again; compile it with pipecut"
        )
    lost = [*source.lost, source.devices[lost_rank]]
    remaining = source.available - len(lost)
    if remaining < 1:
        raise InfeasibleError(
            f"{path}: rank {lost_rank} was on the last device of {source.cluster}; none remains"
        )
    fits = plan.ranks <= remaining
    ranks = plan.layout.pipeline_ranks
    stages_per_rank = len(plan.stages) // ranks
    stages = (
        len(plan.stages)
        if fits
        else min(ranks, remaining) * stages_per_rank
        if plan.replicas == 1
        else AUTO
    )
    replicas = plan.replicas if fits or plan.replicas == 1 else AUTO
    sizes = SizeOverrides(
        stages, replicas, plan.batch.microbatch, None, plan.schedule, stages_per_rank
    )
    target = path.with_name(
        f"{path.name.split('-without-')[0]}-without-{'-'.join(str(device) for device in lost)}"
    )
    options = Options(sizes, lost=tuple(lost))
    compile_plan(Request(Path(source.job), source.cluster, target, options), progress)
    return target
