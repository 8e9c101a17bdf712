"""Random numbers that depend only on seed, step, microbatch and the draw's number in the model.

Each draw of a forward - of dropout, also inside attention, of rand_like, of gumbel noise - begins
with its own seed, so that a model draws the same on any number of stages and replicas, unsplit,
with recompute, and after a checkpoint. Draws are counted where operators reach their kernels: a
composite operator, such as attention, counts as the operators in it.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pipecut.device.work import generators
from pipecut.model.opaque.host_random import HostRandom, seed_host

# Libraries of operators of which torch tags those that draw.
TAGGED = ("aten", "prims", "prim", "inductor", "quantized_decomposed", "_c10d_functional")
# Functions of torch.nn.functional that are made of random operators of other names.
COMPOSED = ("dropout", "rrelu", "gumbel", "fractional_max_pool", "multi_head_attention")


def draws(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether an operator takes random numbers; attention without dropout takes none.

    An operator of another library may draw within its kernel, where nobody sees it.
    """
    if not _is_tagged(func):
        return not _is_of_torch(func)
    position = _dropout_position(func)
    if position is None:
        return True
    return bool(args[position] if position < len(args) else kwargs.get("dropout_p", 0.0))


def _is_tagged(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags


@lru_cache(maxsize=4096)
def _is_of_torch(func: Any) -> bool:
    namespace = str(getattr(func, "namespace", TAGGED[0]))
    return namespace in TAGGED or namespace.startswith("pipecut")


@lru_cache(maxsize=4096)
def _dropout_position(func: Any) -> int | None:
    """The position of the argument with the dropout probability; None for other operators."""
    names = [argument.name for argument in func._schema.arguments]
    return names.index("dropout_p") if "dropout_p" in names else None


@lru_cache(maxsize=4096)
def may_draw(func: Any) -> bool:
    """Whether a function, or an operator within it, may take random numbers."""
    if isinstance(func, torch._ops.OpOverload):
        return _is_tagged(func) or not _is_of_torch(func)
    name = str(getattr(func, "__name__", ""))
    if any(part in name for part in COMPOSED):
        return True
    packet = getattr(torch.ops.aten, name, None) if name and not name.startswith("__") else None
    overloads = (
        [getattr(packet, overload) for overload in packet.overloads()] if packet is not None else []
    )
    return any(map(_is_tagged, overloads))


class CountDraws(TorchDispatchMode):
    """Counts draws while it is entered."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += draws(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


class Draws(TorchDispatchMode):
    """Around a forward and its backward, the k-th draw is the model's `numbers[k]`-th, or its k-th.

    The generator's own seed tells which draw was the last. So a part that runs again from the
    generator's earlier state, as torch.utils.checkpoint does in backward, draws what it drew.
    Afterwards the generators are as they were.
    """

    def __init__(self, seed: int, numbers: Sequence[int] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seed, self.numbers = seed, numbers
        self.step = self.microbatch = 0
        # By seed of each draw so far: how many draws there were up to it; None in an opaque module.
        self.after: dict[int, int | None] = {}
        # Draws before each opaque module that runs now, and Python's and NumPy's generators then.
        self.around: list[tuple[int, HostRandom]] = []
        self.states: list[tuple[torch.Generator, torch.Tensor]] = []

    def at(self, step: int, microbatch: int) -> "Draws":
        """Draw for this step and microbatch, which are counted over all replicas."""
        self.step, self.microbatch = step, microbatch
        return self

    def begin(self) -> None:
        """Keep the generators' states, and begin with the first draw."""
        self.states = [(generator, generator.get_state()) for generator in generators()]
        self.after.clear()
        self.around.clear()
        self._seed("begin", 0)

    def end(self) -> None:
        """Restore the generators."""
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
        """Seed the generators for the next operator, where it draws."""
        if draws(func, args, kwargs):
            count = self._count()
            if count is not None:
                self._seed(self._number(count), count + 1)

    def begin_opaque(self) -> None:
        """An opaque module begins: all that it draws, as often as it likes, is one draw here.

        It may draw Python's and NumPy's random numbers as well.
        """
        count = self._count() or 0
        self.around.append((count, HostRandom.now()))
        seed_host(self._seed(self._number(count), None))

    def end_opaque(self) -> None:
        """It ends: what is drawn after it does not depend on how often it drew."""
        count, before = self.around.pop()
        before.put_back()
        self._seed(f"after {self._number(count)}", count + 1)

    def _count(self) -> int | None:
        return self.after.get(torch.default_generator.initial_seed(), 0)

    def _number(self, count: int) -> str:
        """The number in the model of this forward's next draw."""
        return str(self.numbers[count] if count < len(self.numbers) else count)

    def _seed(self, draw: str, count: int | None) -> int:
        text = f"{self.seed} {self.step} {self.microbatch} {draw}"
        # A hash, so that no two draws begin with one seed; manual_seed takes 63 bits.
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        seed = int.from_bytes(digest, "little") >> 1
        self.after[seed] = count
        # torch.manual_seed takes a hundred times as long: it seeds every type of device, and
        # formats a stack trace for each that is idle.
        for generator in generators():
            generator.manual_seed(seed)
        return seed


class StageDraws(TorchFunctionMode):
    """`Draws` for a stage, whose code calls operators: those without draws cost nothing."""

    def __init__(self, seed: int, numbers: Sequence[int]) -> None:
        super().__init__()
        self.draws = Draws(seed, numbers)
        self.within = _Within(self.draws.before)

    def at(self, step: int, microbatch: int) -> "StageDraws":
        """Draw for this step and microbatch, which are counted over all replicas."""
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
        """Watch the operators within a function that may draw."""
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
