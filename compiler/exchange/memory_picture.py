"""What a step takes of each device's memory, as a picture."""

from collections.abc import Sequence

from pipecut.plan.actions import Action, Compute
from pipecut.plan.folder import PlanFolder
from pipecut.quantities import show_bytes

# Characters of a device's memory.
BAR = 40


def memory_picture(folder: PlanFolder) -> str:
    """A bar per pipeline rank: what a step takes at its peak, of what the device has."""
    plan, lines = folder.plan, []
    for rank in range(plan.layout.pipeline_ranks):
        stages = [stage for stage in plan.stages if stage.pipeline_rank == rank]
        taken = max(
            sum(stage.memory_bytes for stage in stages)
            + stages[0].device_bytes
            - stages[0].capacity_bytes,
            stages[0].peak_bytes + stages[0].outside_bytes,
        )
        capacity = stages[0].device_bytes
        filled = round(BAR * taken / max(capacity, 1))
        bar = "#" * min(filled, BAR) + "." * (BAR - filled) + "!" * min(filled - BAR, BAR)
        held = ", ".join(
            f"{_held(folder.actions[rank], s.index)} of stage {s.index}" for s in stages
        )
        lines.append(
            f"rank {rank}  |{bar}  {show_bytes(taken)} of {show_bytes(capacity)}; "
            f"holds at most {held}"
        )
    return "\n".join([*lines, "(microbatches in flight; ! is what does not fit)"])


def _held(row: Sequence[Action], stage: int) -> int:
    """Microbatches in flight at the most."""
    live = most = 0
    for action in row:
        if isinstance(action, Compute) and action.stage == stage:
            live += {"F": 1, "I": 0}.get(action.op, -1)
            most = max(most, live)
    return most
