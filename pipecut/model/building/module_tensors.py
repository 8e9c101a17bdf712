"""Tensors of a model that are no parameters: its buffers, and plain attributes of its modules."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

# Attributes that nn.Module has itself.
OF_MODULES = frozenset(vars(nn.Module()))


def plain_attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Names and values of a module's attributes but for parameters, buffers, modules and hooks."""
    return ((name, value) for name, value in vars(module).items() if name not in OF_MODULES)


def plain_tensors(value: Any) -> Iterator[tuple[int, torch.Tensor]]:
    """Tensors in an attribute or in its lists and the like, by their position; no parameters."""
    for position, leaf in enumerate(tree_leaves(value)):
        if isinstance(leaf, torch.Tensor) and not isinstance(leaf, nn.Parameter):
            yield position, leaf


def buffers_and_attributes(model: nn.Module) -> dict[str, torch.Tensor]:
    """Buffers by name, and tensors in plain attributes of modules by path and position."""
    if not isinstance(model, nn.Module):
        return {}
    tensors = dict(model.named_buffers(remove_duplicate=False))
    for path, module in model.named_modules():
        for name, value in plain_attributes(module):
            for position, tensor in plain_tensors(value):
                tensors[f"{path}.{name}:{position}"] = tensor
    return tensors


def replace_in_attributes(
    model: nn.Module, replacement: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Replace every tensor in a plain attribute of a module."""
    for module in model.modules():
        for name, value in list(plain_attributes(module)):
            if any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(value)):
                vars(module)[name] = tree_map(
                    lambda leaf: replacement(leaf) if isinstance(leaf, torch.Tensor) else leaf,
                    value,
                )
