"""Build a model with parameters on meta, which have shapes and no contents."""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from pipecut.errors import PipecutError, TraceError
from pipecut.model.building.module_tensors import buffers_and_attributes, replace_in_attributes
from pipecut.model.building.numbering import counted_parameters
from pipecut.model.building.partial import Factory, build_partly
from pipecut.model.building.shared_memory import SharedMemory

log = logging.getLogger("pipecut")


class _WatchDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees whether random numbers went into anything but parameters on meta."""

    drew = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        random = torch.Tag.nondeterministic_seeded in func.tags
        if random and isinstance(result, torch.Tensor) and not result.is_meta:
            self.drew = True
        return result


@dataclass(frozen=True)
class _OnMeta:
    """A model with parameters on meta.

    `drew`: whether random numbers went into anything else; `memory`: which tensors share memory.
    """

    model: nn.Module
    drew: bool
    memory: SharedMemory


class _NeedsValues(Exception):
    """A parameter gets its shape from values."""


def meta_model(factory: Factory, seed: int) -> nn.Module:
    """The model with parameters on meta, for their names and shapes.

    The random number generator is left as it was.
    """
    return _on_meta(factory, seed).model


def build_on_meta(factory: Factory, seed: int) -> nn.Module:
    """The model with parameters on meta, and real buffers with the values that `seed` gives them.

    The random number generator is left as it was.
    """
    built = _on_meta(factory, seed)
    model = built.model
    if not isinstance(model, nn.Module):
        return model
    built.memory.check(model)
    tensors = buffers_and_attributes(model)
    if _lack_values(tensors, built, factory, seed):
        values = build_partly(factory, seed, frozenset(), buffers_and_attributes).values
        real = {id(tensor): values[name] for name, tensor in tensors.items()}
        for module in model.modules():
            for name, buffer in module._buffers.items():
                module._buffers[name] = real[id(buffer)] if buffer is not None else None
        replace_in_attributes(model, lambda tensor: real.get(id(tensor), tensor))
    return model


def _lack_values(
    tensors: dict[str, torch.Tensor], built: _OnMeta, factory: Factory, seed: int
) -> bool:
    """Whether tensors that are no parameters lack the values that the whole model gives them."""
    if any(tensor.is_meta and tensor.numel() for tensor in tensors.values()):
        return True
    if not tensors or not built.drew:
        return False
    # To initialise every parameter takes long: do it only where random numbers reach these tensors,
    # which shows in another seed's model.
    of_other_seed = buffers_and_attributes(_on_meta(factory, seed + 1).model)
    return any(
        name not in of_other_seed or not _equal(tensor, of_other_seed[name])
        for name, tensor in tensors.items()
    )


def _equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    same_form = first.dtype == second.dtype and first.layout == second.layout
    return same_form and torch.equal(first, second)


def _on_meta(factory: Factory, seed: int) -> _OnMeta:
    """Builds with real tensors where the factory looks at values, which nothing on meta has."""
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

    watch = _WatchDraws()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=[]), counted_parameters(to_meta), watch:
        torch.manual_seed(seed)
        return _OnMeta(factory(), watch.drew, memory)


def _emptied(factory: Factory, seed: int) -> _OnMeta:
    """Built with real parameters, of which few have contents at a time, and then put on meta.

    Buffers have their values.
    """
    models: list[nn.Module] = []

    def values_of(model: nn.Module) -> dict[str, torch.Tensor]:
        models.append(model)
        return buffers_and_attributes(model)

    build_partly(factory, seed, frozenset(), values_of)
    model, memory = models[-1], SharedMemory()
    if not isinstance(model, nn.Module):
        return _OnMeta(model, False, memory)
    memory.check(model)
    twins: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and is_lazy(parameter):
                raise TraceError(
                    f"parameter '{name}' of {type(module).__name__} has no shape yet: run the "
                    "model once on an example batch in the factory, before it returns it, or use "
                    "the module that is not lazy"
                )
            if parameter is not None:
                module._parameters[name] = twins.setdefault(id(parameter), _twin(parameter))
    replace_in_attributes(model, lambda tensor: twins.get(id(tensor), tensor))
    return _OnMeta(model, False, memory)


def _twin(parameter: nn.Parameter) -> nn.Parameter:
    twin = nn.Parameter(parameter.data.to("meta"), requires_grad=parameter.requires_grad)
    twin.__dict__.update(parameter.__dict__)
    return twin
