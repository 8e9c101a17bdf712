"""Random numbers that depend on the seed, the step, the microbatch and their place in the model alone.

Each draw of a forward - of dropout, also inside attention, of rand_like, of gumbel noise - begins with
its own seed, so that a model draws the same on any number of stages and replicas, unsplit, with
recompute, and when it goes on from a checkpoint. Draws are counted where operators reach their kernels:
a composite operator, such as attention, is what it is made of.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pipecut.device.work import generators

# Functions of torch.nn.functional that are no operators by their own name, and are made of random ones.
COMPOSED = ("dropout", "rrelu", "gumbel", "fractional_max_pool", "multi_head_attention")


def draws(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether an operator that reached its kernel takes random numbers; attention without dropout takes none."""
    random, position = _chance(func)
    if not random or position is None:
        return random
    return bool(args[position] if position < len(args) else kwargs.get("dropout_p", 0.0))


@lru_cache(maxsize=4096)
def _chance(func: Any) -> tuple[bool, int | None]:
    """Whether an operator takes random numbers, and where it has the chance that it drops."""
    names = [argument.name for argument in func._schema.arguments]
    where = names.index("dropout_p") if "dropout_p" in names else None
    return torch.Tag.nondeterministic_seeded in func.tags, where


@lru_cache(maxsize=4096)
def may_draw(func: Any) -> bool:
    """Whether a function may take random numbers, inside too."""
    if isinstance(func, torch._ops.OpOverload):
        return torch.Tag.nondeterministic_seeded in func.tags
    name = str(getattr(func, "__name__", ""))
    if any(part in name for part in COMPOSED):
        return True
    packet = getattr(torch.ops.aten, name, None) if name and not name.startswith("__") else None
    overloads = (
        [getattr(packet, overload) for overload in packet.overloads()] if packet is not None else []
    )
    return any(torch.Tag.nondeterministic_seeded in overload.tags for overload in overloads)


class CountDraws(TorchDispatchMode):
    """Counts draws while it is entered."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += draws(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


class Draws(TorchDispatchMode):
    """Around a forward and its backward, the k-th draw is the model's `places[k]`-th, or simply its k-th.

    The generator itself says which draw was the last. So a part that runs again from the generator's
    earlier state, as torch.utils.checkpoint does in backward, draws what it drew. Afterwards the
    generators are as they were.
    """

    def __init__(self, seed: int, places: Sequence[int] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seed, self.places = seed, places
        self.step = self.microbatch = 0
        # By the seed of each draw so far, how many there were up to it.
        self.after: dict[int, int] = {}
        self.states: list[tuple[torch.Generator, torch.Tensor]] = []

    def at(self, step: int, microbatch: int) -> "Draws":
        """Of this step and microbatch, which are counted over all replicas."""
        self.step, self.microbatch = step, microbatch
        return self

    def begin(self) -> None:
        """Note the generators' states, and begin with the first draw."""
        self.states = [(generator, generator.get_state()) for generator in generators()]
        self.after.clear()
        self._seed("begin", 0)

    def end(self) -> None:
        """Put the generators back."""
        for generator, state in self.states:
            generator.set_state(state)

    def __enter__(self) -> "Draws":
        self.begin()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        self.end()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.before(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def before(self, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Seed what comes next, where it draws."""
        if draws(func, args, kwargs):
            count = self.after.get(torch.default_generator.initial_seed(), 0)
            self._seed(str(self.places[count] if count < len(self.places) else count), count + 1)

    def _seed(self, place: str, count: int) -> None:
        text = f"{self.seed} {self.step} {self.microbatch} {place}"
        # Another draw must not begin where this one does.
        number = (
            int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
        )
        self.after[number] = count
        # torch.manual_seed takes a hundred times as long: it goes to every kind of device, and
        # formats a stack trace for each that is idle.
        for generator in generators():
            generator.manual_seed(number)


class StageDraws(TorchFunctionMode):
    """As `Draws` around the forward of a stage, whose code calls operators: the others cost nothing."""

    def __init__(self, seed: int, places: Sequence[int]) -> None:
        super().__init__()
        self.draws = Draws(seed, places)
        self.within = _Within(self.draws.before)

    def at(self, step: int, microbatch: int) -> "StageDraws":
        """As that of Draws."""
        self.draws.at(step, microbatch)
        return self

    def __enter__(self) -> "StageDraws":
        self.draws.begin()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        self.draws.end()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Looks into what may draw."""
        if not may_draw(func):
            return func(*args, **(kwargs or {}))
        with self.within:
            return func(*args, **(kwargs or {}))


class _Within(TorchDispatchMode):
    """Calls `before` with each operator that reaches its kernel."""

    def __init__(self, before: Callable[[Any, Any, dict[str, Any]], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.before = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.before(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))
