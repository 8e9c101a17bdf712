"""What a plan cannot combine, in values that both a request and a finished plan have.

The compiler asks these rules before its search and of every candidate; its other rules, of models,
costs and memory, stand in compiler/refusals.py. The checker asks them of the plan that comes out.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Combination:
    """What a rule looks at.

    `split` is the schedule that splits the backward of a stage, `draws` an operator that draws
    random numbers, `opaque` a module that runs as it is, `whole` an optimizer whose step of an
    element depends on others; all are "" where there is none. `compiled` is whether stages are
    compiled, `sharded` whether replicas divide what the optimizer steps.
    """

    replicas: int = 1
    writes_buffers: bool = False
    compiled: bool = False
    split: str = ""
    draws: str = ""
    sharded: bool = False
    whole: str = ""
    opaque: str = ""


@dataclass(frozen=True)
class Conflict:
    """Why a combination cannot be, what to do, and the key of the job file that asks for it."""

    why: str
    remedy: str
    key: str


Rule = Callable[[Combination], Conflict | None]


def replicas_drift(asked: Combination) -> Conflict | None:
    """Each replica would write buffers of its own samples."""
    if asked.replicas == 1 or not asked.writes_buffers:
        return None
    return Conflict(
        f"data_parallel {asked.replicas}: the model changes buffers in its forward, as BatchNorm "
        "does, and replicas would drift apart",
        "use data_parallel: 1",
        "data_parallel",
    )


def compiled_backward_is_whole(asked: Combination) -> Conflict | None:
    """A compiled backward computes both gradients of a product at once."""
    if not asked.compiled or not asked.split:
        return None
    return Conflict(
        f"{asked.split} splits the backward of a stage, which compiled stages do not allow",
        "use compile: eager, or another schedule",
        "compile",
    )


def compiled_draws_differ(asked: Combination) -> Conflict | None:
    """Inductor's kernels have a random number generator of their own."""
    if not asked.compiled or not asked.draws:
        return None
    return Conflict(
        f"{asked.draws} draws random numbers, and compiled code draws other numbers than the "
        "unsplit model",
        "use compile: eager, or build the model without it (dropout 0)",
        "compile",
    )


def rows_are_stepped_apart(asked: Combination) -> Conflict | None:
    """A replica that has some rows of a matrix would step them otherwise than the whole."""
    if asked.replicas == 1 or not asked.sharded or not asked.whole:
        return None
    return Conflict(
        f"{asked.whole} steps each element by all elements of its parameter, and with "
        "shard_optimizer a replica has some rows only",
        "use shard_optimizer: false, or an elementwise optimizer such as adamw",
        "shard_optimizer",
    )


def opaque_modules_are_eager(asked: Combination) -> Conflict | None:
    """Compiled code would not be the user's own, called as it is."""
    if not asked.compiled or not asked.opaque:
        return None
    return Conflict(
        f"'{asked.opaque}' runs as it is, which compiled stages do not allow",
        "use compile: eager, or write the module so that it can be traced",
        "compile",
    )


RULES: tuple[Rule, ...] = (
    replicas_drift,
    compiled_backward_is_whole,
    opaque_modules_are_eager,
    compiled_draws_differ,
    rows_are_stepped_apart,
)


def conflict_of(asked: Combination) -> Conflict | None:
    """The first conflict of a combination, None where all of it can be."""
    conflicts = (rule(asked) for rule in RULES)
    return next((conflict for conflict in conflicts if conflict is not None), None)
