"""What a traced model may draw at random: operators whose seeds the runtime sets, and nothing behind the tracer's back."""

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


@contextmanager
def only_operators_draw() -> Iterator[None]:
    """Raises TraceError when the model draws other random numbers than torch's operators do, or seeds them.

    What it drew while it was traced would be a constant of the plan.
    """

    def refusing(original: Callable[..., Any]) -> Callable[..., Any]:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            # The tracer puts back the state that it found.
            if sys._getframe(1).f_code.co_filename.startswith(TRACER):
                return original(*args, **kwargs)
            raise seeded

        seeded = TraceError(
            "the model seeds torch's random numbers, or sets their state, in its forward, which a plan cannot do: "
            "its operators are seeded by the job's seed, the step and the microbatch; "
            "draw what is to stay the same once, in __init__, and register it as a buffer"
        )
        return refuse

    python, of_numpy = random.getstate(), numpy.random.get_state()
    with ExitStack() as stack:
        for name in SEEDING:
            stack.enter_context(mock.patch(name, refusing(pkgutil.resolve_name(name))))
        yield
    for library, differs in (
        ("random", random.getstate() != python),
        ("numpy.random", not _equal(numpy.random.get_state(), of_numpy)),
    ):
        if differs:
            raise TraceError(
                f"the model's forward draws from Python's {library}, and a plan would keep the "
                "numbers that it drew while it was traced; draw with torch's operators, "
                "such as torch.rand, or once in __init__"
            )


def _equal(one: Any, other: Any) -> bool:
    return all(numpy.array_equal(a, b) for a, b in zip(one, other, strict=True))
