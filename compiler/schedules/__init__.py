"""Orders of compute per stage, and their lowering to actions per rank."""

from pipecut.compiler.schedules.gpipe import gpipe
from pipecut.compiler.schedules.lower import lower
from pipecut.compiler.schedules.one_f_one_b import one_f_one_b

ORDERS = {"gpipe": gpipe, "1f1b": one_f_one_b}

__all__ = ["ORDERS", "in_flight", "lower"]


def in_flight(schedule: str, stages: int, microbatches: int) -> tuple[int, ...]:
    """Microbatches whose activations a stage holds at most, by stage."""
    if schedule == "gpipe":
        return (microbatches,) * stages
    return tuple(min(microbatches, stages - stage) for stage in range(stages))
