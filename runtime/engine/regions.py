"""Which modules of a stage torch.compile takes: layers that are alike share what it compiles."""

from collections import Counter
from collections.abc import Iterator

from torch import nn


def compile_regions(stage: nn.Module) -> None:
    """Compile a stage's layers, each class once, and what else has code of its own.

    Where no layers are alike, the stage is compiled whole.
    """
    for module in regions(stage) or [stage]:
        module.compile()


def regions(stage: nn.Module) -> list[nn.Module]:
    """The layers of a stage of which some are alike, and their neighbours; empty without such.

    Modules of torch's own are no regions: single kernels gain nothing.
    """
    layers = {cls for module in stage.modules() for cls in _alike(module)}
    return list(_outermost(stage, layers)) if layers else []


def _alike(module: nn.Module) -> list[type]:
    """Classes of which a module has several numbered members."""
    numbered = [member for name, member in module.named_children() if name.isdigit()]
    count = Counter(type(member) for member in numbered if _has_code(member))
    return [cls for cls, times in count.items() if times > 1]


def _outermost(module: nn.Module, layers: set[type]) -> Iterator[nn.Module]:
    for member in module.children():
        if type(member) in layers:
            yield member
        elif any(type(inner) in layers for inner in member.modules()):
            yield from _outermost(member, layers)
        elif _has_code(member):
            yield member


def _has_code(module: nn.Module) -> bool:
    """Whether a module computes with code of its stage's file."""
    return type(module).forward.__module__ == type(module).__module__ and not (
        type(module).__module__.startswith("torch.")
    )
