"""What forwards of opaque modules leave in attributes, of which later forwards may need nothing.

A model may keep something of a batch for later, as positions for the tokens that it generates next.
A plan runs forwards in an order of its own, so that is carried on only where it changes nothing:
the same batch again, after what it left itself, must give the same results and leave the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_map

from pipecut.compiler.trace.opaque.calls import CallKey
from pipecut.compiler.trace.opaque.observed import SeenCall
from pipecut.compiler.trace.opaque.untraceable import Untraceable
from pipecut.compiler.trace.watch.attributes import MISSING, PLAIN, Copied, Place, attributes_of


@dataclass(frozen=True)
class Ran:
    """The calls of opaque modules in a forward, and what each returned."""

    calls: dict[CallKey, SeenCall]
    results: dict[CallKey, Any]


def run_twice_if_changed(
    model: nn.Module, modules: Mapping[str, nn.Module], run: Callable[[], Ran]
) -> Ran:
    """Run a forward of a model with these opaque modules; twice where it changes attributes.

    Each run must draw the same. Raises Untraceable where the second one depends on the first.
    """
    within = {
        f"{path}.{name}".rstrip("."): inner
        for path, module in modules.items()
        for name, inner in module.named_modules()
    }
    before = {place: Copied.of(value) for place, value in attributes_of(within).items()}
    buffers = {buffer: buffer.clone() for buffer in model.buffers()}
    ran = run()
    left = {place: kept(value) for place, value in _changed(within, before).items()}
    if not left:
        return ran
    for buffer, value in buffers.items():
        buffer.copy_(value)
    again = run()
    after = attributes_of(within)
    for place, value in left.items():
        if not _equal(value, after.get(place, MISSING)) or not _equal(ran.results, again.results):
            raise Untraceable(
                f"'{place}' changes from one forward to the next, and a plan runs forwards in an "
                "order of its own; register it as a buffer, and write it in place with "
                f"self.{place.name}.copy_(...)",
                next(path for path in modules if f"{place.path}.".startswith(f"{path}.")),
            )
    return ran


def _changed(within: Mapping[str, nn.Module], before: dict[Place, Copied]) -> dict[Place, Any]:
    """Attributes that a forward changed, without those that it filled first, as a cache."""
    changed = {}
    for place, value in attributes_of(within).items():
        earlier = before.get(place, Copied(MISSING))
        filled = earlier.value is MISSING or earlier.value is None
        if not filled and earlier.differs(value):
            changed[place] = value
    return changed


def kept(value: Any) -> Any:
    """A value as it is now, whatever is written to its tensors."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, value)


def _equal(first: Any, second: Any) -> bool:
    """Whether two values are alike, by the values of tensors; others than plain by identity."""
    (leaves, nesting), (others, other_nesting) = tree_flatten(first), tree_flatten(second)
    return nesting == other_nesting and all(map(_equal_leaves, leaves, others))


def _equal_leaves(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, PLAIN) and type(first) is type(second):
        return bool(first == second)
    return first is second
