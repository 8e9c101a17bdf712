"""Build a model without holding it: parameters on meta, or only a few of them kept.

What is kept gets the very values that the whole model would have got from the same seed.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from pipecut.errors import PipecutError, TraceError
from pipecut.model.reclaimable_storage import ContentsAreRead, ReclaimableStorage
from pipecut.model.shared_memory import SharedMemory

log = logging.getLogger("pipecut")
# Attributes that nn.Module has itself.
OF_MODULES = frozenset(vars(nn.Module()))

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
        if (
            torch.Tag.nondeterministic_seeded in func.tags
            and isinstance(result, torch.Tensor)
            and not result.is_meta
        ):
            self.drew = True
        return result


@dataclass(frozen=True)
class _OnMeta:
    """A model with parameters on meta; whether random numbers went into anything else; what shares memory."""

    model: nn.Module
    drew: bool
    memory: SharedMemory


class _NeedsValues(Exception):
    """A parameter that gets its shape from values."""


def _on_meta(factory: Factory, seed: int) -> _OnMeta:
    """By way of real tensors where the factory looks at values, which nothing on meta has."""
    try:
        return _built_on_meta(factory, seed)
    except PipecutError:
        raise
    except Exception:
        log.debug("the model cannot be built on meta; trying with real tensors", exc_info=True)
        return _emptied(factory, seed)


def _built_on_meta(factory: Factory, seed: int) -> _OnMeta:
    memory = SharedMemory()

    def to_meta(parameter: nn.Parameter, _: int) -> nn.Parameter:
        if parameter.is_meta:
            return parameter
        if is_lazy(parameter):
            raise _NeedsValues
        twin = _twin(parameter)
        memory.note(parameter, twin)
        return twin

    with torch.random.fork_rng(devices=[]), counted_parameters(to_meta), _WatchDraws() as watch:  # type: ignore[no-untyped-call]
        torch.manual_seed(seed)
        return _OnMeta(factory(), watch.drew, memory)


def _emptied(factory: Factory, seed: int) -> _OnMeta:
    """Built with real parameters of which few have contents at a time, then put on meta. Buffers have their values."""
    models: list[nn.Module] = []

    def values_of(model: nn.Module) -> dict[str, torch.Tensor]:
        models.append(model)
        return _held(model)

    _build(factory, seed, set(), values_of)
    model, memory = models[-1], SharedMemory()
    if not isinstance(model, nn.Module):
        return _OnMeta(model, False, memory)
    memory.check(model)
    twins: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and is_lazy(parameter):
                raise TraceError(
                    f"parameter '{name}' of {type(module).__name__} has no shape yet: run the model once on an example batch "
                    "in the factory, before it returns it, or use the module that is not lazy"
                )
            if parameter is not None:
                module._parameters[name] = twins.setdefault(id(parameter), _twin(parameter))
    _replace(model, lambda tensor: twins.get(id(tensor), tensor))
    return _OnMeta(model, False, memory)


def _twin(parameter: nn.Parameter) -> nn.Parameter:
    twin = nn.Parameter(parameter.data.to("meta"), requires_grad=parameter.requires_grad)
    twin.__dict__.update(parameter.__dict__)
    return twin


def _held(model: nn.Module) -> dict[str, torch.Tensor]:
    """Buffers by FQN, and tensors that are plain attributes of modules, alone or in lists and the like."""
    if not isinstance(model, nn.Module):
        return {}
    tensors = dict(model.named_buffers(remove_duplicate=False))
    for path, module in model.named_modules():
        for name, value in _plain(module).items():
            leaves = tree_leaves(value)
            for number, leaf in enumerate(leaves):
                if isinstance(leaf, torch.Tensor) and not isinstance(leaf, nn.Parameter):
                    tensors[f"{path}.{name}:{number}"] = leaf
    return tensors


def _plain(module: nn.Module) -> dict[str, Any]:
    """A module's attributes but for parameters, buffers, modules and hooks."""
    return {name: value for name, value in vars(module).items() if name not in OF_MODULES}


def _replace(model: nn.Module, instead: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Put others in the place of tensors that are plain attributes."""
    for module in model.modules():
        for name, value in _plain(module).items():
            if any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(value)):
                vars(module)[name] = tree_map(
                    lambda leaf: instead(leaf) if isinstance(leaf, torch.Tensor) else leaf, value
                )


def build_on_meta(factory: Factory, seed: int) -> nn.Module:
    """The model with parameters on meta and the real buffers it has for `seed`. The generator is left as it was."""
    built = _on_meta(factory, seed)
    model = built.model
    if not isinstance(model, nn.Module):
        return model
    built.memory.check(model)
    held = _held(model)
    unfilled = any(tensor.is_meta and tensor.numel() for tensor in held.values())
    if held and built.drew and not unfilled:
        # Initialising every parameter takes long, so it is done only when the draws reached another tensor.
        other = _held(_on_meta(factory, seed + 1).model)
        unfilled = any(
            name not in other or not _equal(tensor, other[name]) for name, tensor in held.items()
        )
    if unfilled:
        values, _ = _build(factory, seed, set(), _held)
        real = {id(tensor): values[name] for name, tensor in held.items()}
        for module in model.modules():
            for name, buffer in module._buffers.items():
                module._buffers[name] = real[id(buffer)] if buffer is not None else None
        _replace(model, lambda tensor: real.get(id(tensor), tensor))
    return model


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.layout == other.layout and torch.equal(one, other)


def meta_model(factory: Factory, seed: int) -> nn.Module:
    """The model with parameters on meta, for their names and shapes. The generator is left as it was."""
    return _on_meta(factory, seed).model


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
    factory: Factory,
    seed: int,
    kept: set[int],
    values_of: Callable[[nn.Module], dict[str, torch.Tensor]],
) -> tuple[dict[str, torch.Tensor], int]:
    """Build with only the parameters of these numbers kept, again with more as long as lost contents reached what is wanted."""
    wanted, drawn = len(kept), False
    while True:
        lent = ReclaimableStorage(drawn)

        def lend(
            parameter: nn.Parameter, number: int, lent: ReclaimableStorage = lent
        ) -> nn.Parameter:
            if number not in kept and not is_lazy(parameter):
                lent.lend(parameter, number)
            return parameter

        try:
            with torch.random.fork_rng(devices=[]), counted_parameters(lend), lent:
                torch.manual_seed(seed)
                values = values_of(factory())
        except ContentsAreRead:
            drawn = True
            continue
        missed = frozenset(lent.read).union(
            *(lent.depends_on_lost(value) for value in values.values())
        )
        if missed <= kept:
            return values, len(kept) - wanted
        kept.update(missed)
