"""Equal layers of a model: modules that stand side by side and may compute the same.

They have the same classes, parameters and buffers of the same shapes, the same mode, and tensors
tied in the same way. Plain attributes may differ: which of them a forward reads, its trace tells.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from pipecut.compiler.trace.stamp.same_value import same_value
from pipecut.compiler.trace.watch.attributes import MISSING, Place, attributes_of

CONTAINERS = (nn.ModuleList, nn.Sequential)
# Two layers show what the others do and the last one proves it: fewer are traced as they stand.
FEWEST = 4
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class Layer:
    """One of some equal layers. `path` is its FQN, `number` its place among them."""

    path: str
    number: int
    module: nn.Module

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """Its modules by their FQN within it; a shared one under each of its names."""
        return dict(self.module.named_modules(remove_duplicate=False))

    def attributes(self) -> dict[Place, Any]:
        """Plain attributes of its modules now."""
        return attributes_of(self.modules)

    def structure(self) -> Any:
        """Classes, modes, shapes and dtypes of its modules now; equal for equal layers.

        None where a module within it has a hook or a forward of its own.
        """
        parts = []
        for name, module in self.modules.items():
            hooked = name and any(getattr(module, hooks) for hooks in HOOKS)
            if hooked or "forward" in vars(module) or isinstance(module, torch.jit.ScriptModule):
                return None
            parts.append((name, type(module), vars(module)["training"], *_tensors(module)))
        return tuple(parts)


def _tensors(module: nn.Module) -> Iterator[Any]:
    """Names and forms of a module's own parameters and buffers."""
    for held in (module._parameters, module._buffers):
        yield tuple((name, _form(tensor)) for name, tensor in held.items())
    yield tuple(sorted(module._non_persistent_buffers_set))


def _form(tensor: torch.Tensor | None) -> Any:
    if tensor is None:
        return None
    return tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.requires_grad


@dataclass(frozen=True)
class EqualLayers:
    """Layers of one container, in its order, and attributes in which any of them differ."""

    layers: tuple[Layer, ...]
    differing: frozenset[Place]

    @property
    def class_name(self) -> str:
        """The class of each."""
        return type(self.layers[0].module).__name__


def equal_layers(model: nn.Module) -> Iterator[EqualLayers]:
    """All sets of equal layers of a model that are large enough to gain from it."""
    names = _names_of_tensors(model)
    for path, container in model.named_modules():
        if not isinstance(container, CONTAINERS):
            continue
        groups: dict[Any, list[Layer]] = defaultdict(list)
        # A Sequential's names need not be numbers.
        for number, (name, module) in enumerate(container.named_children()):
            layer = Layer(f"{path}.{name}".removeprefix("."), number, module)
            structure = layer.structure()
            if structure is not None:
                groups[structure, _ties(layer, names)].append(layer)
        for group in groups.values():
            layers = tuple(Layer(x.path, number, x.module) for number, x in enumerate(group))
            differing = _differing(layers)
            if len(layers) >= FEWEST and not _replaces_methods(layers[0], differing):
                yield EqualLayers(layers, differing)


def _names_of_tensors(model: nn.Module) -> dict[int, list[str]]:
    """All FQNs of each parameter and buffer, by its identity."""
    names: dict[int, list[str]] = defaultdict(list)
    for held in (model.named_parameters, model.named_buffers):
        for name, tensor in held(remove_duplicate=False):
            names[id(tensor)].append(name)
    return names


def _ties(layer: Layer, names: Mapping[int, list[str]]) -> Any:
    """Which tensors of a layer are one, and which are tied with another layer's."""
    inside = f"{layer.path}."
    ties = []
    for held in (layer.module.named_parameters, layer.module.named_buffers):
        for name, tensor in held(remove_duplicate=False):
            all_names = names[id(tensor)]
            own = all(other.startswith(inside) for other in all_names)
            ties.append((name, all_names[0].removeprefix(inside) if own else id(tensor)))
    return tuple(ties)


def _differing(layers: tuple[Layer, ...]) -> frozenset[Place]:
    first = layers[0].attributes()
    return frozenset(
        place for layer in layers[1:] for place in differences(first, layer.attributes())
    )


def differences(first: Mapping[Place, Any], other: Mapping[Place, Any]) -> set[Place]:
    """Attributes that are not certainly the same."""
    return {
        place
        for place in {*first, *other}
        if not same_value(first.get(place, MISSING), other.get(place, MISSING))
    }


def _replaces_methods(layer: Layer, differing: frozenset[Place]) -> bool:
    """Whether an attribute hides a method: replaced by a watching one, it could not be called."""
    modules = layer.modules
    return any(
        callable(getattr(type(modules[place.path]), place.name, None)) for place in differing
    )
