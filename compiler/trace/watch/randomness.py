"""What a traced model may draw at random: only operators, whose seeds the runtime sets."""

import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from pipecut.compiler.trace.modes.mode_reads import TRACER
from pipecut.device.types import DEVICE_TYPES
from pipecut.errors import TraceError
from pipecut.model.opaque.host_random import HostRandom

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


class DrawnByHost(TraceError):
    """A forward took random numbers that no operator draws."""


# Not empty while seeding is allowed.
_allowed: list[bool] = []


@contextmanager
def only_operators_draw() -> Iterator[None]:
    """Raises TraceError when the model draws random numbers past torch's operators, or seeds them.

    What it drew while it was traced would be a constant of the plan.
    """
    before = HostRandom.now()
    with none_seeds():
        yield
    library = before.who_drew
    if library is not None:
        raise DrawnByHost(
            f"the model's forward draws from Python's {library}, and a plan would keep the numbers "
            "that it drew while it was traced; draw with torch's operators, such as torch.rand, or "
            "once in __init__"
        )


@contextmanager
def none_seeds() -> Iterator[None]:
    """Raises TraceError when the model seeds torch's random numbers."""
    with ExitStack() as stack:
        for name in SEEDING:
            stack.enter_context(mock.patch(name, _refusing(pkgutil.resolve_name(name))))
        yield


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


@contextmanager
def noting_who_draws() -> Iterator[list[nn.Module]]:
    """Meanwhile list the modules whose calls draw past torch's operators, an inner one first."""
    found: list[nn.Module] = []
    before: list[HostRandom] = []

    def end(module: nn.Module, *_: Any) -> None:
        if before.pop().who_drew is not None:
            found.append(module)

    begin = register_module_forward_pre_hook(lambda *_: before.append(HostRandom.now()))
    with begin, register_module_forward_hook(end):
        yield found
