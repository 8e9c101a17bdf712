"""Build a model without holding it: parameters on meta, or only a few of them kept.

What is kept gets the very values that the whole model would have got from the same seed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pipecut.runtime.lent_storage import ContentsAreRead, LentStorage

Factory = Callable[[], nn.Module]
Replace = Callable[[nn.Parameter, int], nn.Parameter]


@contextmanager
def counted_parameters(replace: Replace) -> Iterator[None]:
    """Number the parameters in the order of their creation, and let `replace` put another in a new one's place."""
    register, deepcopy = nn.Module.register_parameter, nn.Parameter.__deepcopy__
    count = 0

    def admit(parameter: nn.Parameter) -> nn.Parameter:
        nonlocal count
        instead = replace(parameter, count)
        instead._pipecut_number = count  # type: ignore[attr-defined]
        if instead is not parameter:
            parameter._pipecut_twin = instead  # type: ignore[attr-defined]
        count += 1
        return instead

    def register_parameter(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None:
            param = getattr(param, "_pipecut_twin", param)
            if not hasattr(param, "_pipecut_number"):
                param = admit(param)
        register(self, name, param)

    def copy_parameter(self: nn.Parameter, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            memo[id(self)] = admit(deepcopy(self, {}))  # type: ignore[no-untyped-call]
        return memo[id(self)]

    nn.Module.register_parameter = register_parameter  # type: ignore[method-assign]
    nn.Parameter.__deepcopy__ = copy_parameter  # type: ignore[assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
        nn.Parameter.__deepcopy__ = deepcopy  # type: ignore[method-assign]


class _WatchDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes whether random numbers went into anything but parameters on meta."""

    drew = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags and isinstance(result, torch.Tensor) and not result.is_meta:
            self.drew = True
        return result


def _on_meta(factory: Factory, seed: int) -> tuple[nn.Module, bool]:
    def to_meta(parameter: nn.Parameter, _: int) -> nn.Parameter:
        if parameter.is_meta:
            return parameter
        twin = nn.Parameter(parameter.data.to("meta"), requires_grad=parameter.requires_grad)
        twin.__dict__.update(parameter.__dict__)
        return twin

    with torch.random.fork_rng(devices=[]), counted_parameters(to_meta), _WatchDraws() as watch:  # type: ignore[no-untyped-call]
        torch.manual_seed(seed)
        return factory(), watch.drew


def _buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_buffers(remove_duplicate=False))


def build_on_meta(factory: Factory, seed: int) -> nn.Module:
    """The model with parameters on meta and the real buffers it has for `seed`. The generator is left as it was."""
    model, drew = _on_meta(factory, seed)
    held = _buffers(model)
    unfilled = any(buffer.is_meta and buffer.numel() for buffer in held.values())
    if held and drew and not unfilled:
        # Initialising every parameter takes long, so it is done only when the draws reached a buffer.
        other = _buffers(_on_meta(factory, seed + 1)[0])
        unfilled = any(name not in other or not torch.equal(buffer, other[name]) for name, buffer in held.items())
    if unfilled:
        values, _ = _build(factory, seed, set(), _buffers)
        for name in held:
            *path, last = name.split(".")
            owner = model.get_submodule(".".join(path))
            owner._buffers[last] = values[name]
    return model


def meta_model(factory: Factory, seed: int) -> nn.Module:
    """The model with parameters on meta, for their names and shapes. The generator is left as it was."""
    return _on_meta(factory, seed)[0]


def initial_parameters(
    factory: Factory, seed: int, wanted: set[str], meta: nn.Module | None = None
) -> tuple[dict[str, torch.Tensor], int]:
    """The parameters named in `wanted` with the values the whole model gets from `seed`, by FQN.

    Also the number of other parameters that had to be held because a wanted one is computed from them. `meta` is the model as
    `meta_model` gives it.
    """
    named = (meta or meta_model(factory, seed)).named_parameters(remove_duplicate=False)
    kept: set[int] = {parameter._pipecut_number for name, parameter in named if name in wanted}  # type: ignore[attr-defined]

    def values_of(model: nn.Module) -> dict[str, torch.Tensor]:
        return {n: p.data for n, p in model.named_parameters(remove_duplicate=False) if n in wanted}

    return _build(factory, seed, kept, values_of)


def _build(
    factory: Factory, seed: int, kept: set[int], values_of: Callable[[nn.Module], dict[str, torch.Tensor]]
) -> tuple[dict[str, torch.Tensor], int]:
    """Build with only the parameters of these numbers kept, again with more as long as lost contents reached what is wanted."""
    wanted, drawn = len(kept), False
    while True:
        lent = LentStorage(drawn)

        def lend(parameter: nn.Parameter, number: int, lent: LentStorage = lent) -> nn.Parameter:
            if number not in kept:
                lent.lend(parameter, number)
            return parameter

        try:
            with torch.random.fork_rng(devices=[]), counted_parameters(lend), lent:
                torch.manual_seed(seed)
                values = values_of(factory())
        except ContentsAreRead:
            drawn = True
            continue
        missed = frozenset(lent.read).union(*(lent.unknown_in(value) for value in values.values()))
        if missed <= kept:
            return values, len(kept) - wanted
        kept.update(missed)
