"""What a traced model may draw at random: only operators, whose seeds the runtime sets."""

import pkgutil
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy

from pipecut.compiler.trace.modes.mode_reads import TRACER
from pipecut.device.types import DEVICE_TYPES
from pipecut.errors import TraceError

SEEDING = (
    *("torch.manual_seed", "torch.random.manual_seed", "torch.seed"),
    *("torch.set_rng_state", "torch.random.set_rng_state"),
    *(
        f"torch.{kind.name}.{function}"
        for kind in DEVICE_TYPES.values()
        if not kind.of_host
        for function in ("manual_seed", "manual_seed_all", "set_rng_state", "set_rng_state_all")
    ),
)


# Not empty while seeding is allowed.
_allowed: list[bool] = []


@contextmanager
def only_operators_draw() -> Iterator[None]:
    """Raises TraceError when the model draws random numbers past torch's operators, or seeds them.

    What it drew while it was traced would be a constant of the plan.
    """
    python_state, numpy_state = random.getstate(), numpy.random.get_state()
    with ExitStack() as stack:
        for name in SEEDING:
            stack.enter_context(mock.patch(name, _refusing(pkgutil.resolve_name(name))))
        yield
    if random.getstate() != python_state:
        raise _drawn_from("random")
    pairs = zip(numpy.random.get_state(), numpy_state, strict=True)
    if not all(numpy.array_equal(after, before) for after, before in pairs):
        raise _drawn_from("numpy.random")


@contextmanager
def may_seed() -> Iterator[None]:
    """Around a backward, in which torch.utils.checkpoint draws again what its forward drew."""
    _allowed.append(True)
    try:
        yield
    finally:
        _allowed.pop()


def _refusing(original: Callable[..., Any]) -> Callable[..., Any]:
    """In place of a function that seeds."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        # The tracer puts back the state that it found.
        if _allowed or sys._getframe(1).f_code.co_filename.startswith(TRACER):
            return original(*args, **kwargs)
        raise TraceError(
            "the model seeds torch's random numbers, or sets their state, in its forward, which a "
            "plan cannot do: its operators are seeded by the job's seed, the step and the "
            "microbatch; draw what is to stay the same once, in __init__, and register it as a "
            "buffer"
        )

    return refuse


def _drawn_from(library: str) -> TraceError:
    return TraceError(
        f"the model's forward draws from Python's {library}, and a plan would keep the numbers "
        "that it drew while it was traced; draw with torch's operators, such as torch.rand, "
        "or once in __init__"
    )
