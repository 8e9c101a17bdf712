"""A model too large to hold: each of its modules has parameters only while it runs.

Their values are random. What is learnt of a run are sizes, which values seldom decide, and which a
run of the plan compares.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from pipecut.model.building.module_tensors import replace_in_attributes


def parameter_bytes(module: nn.Module) -> int:
    """Bytes of all parameters, each once."""
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


@dataclass(frozen=True)
class _Held:
    """Modules whose parameters have memory, and those on meta by the id of what stands for each."""

    modules: tuple[nn.Module, ...]
    on_meta: dict[int, nn.Parameter]

    @staticmethod
    def of(module: nn.Module, most_bytes: int) -> "_Held":
        """Give memory to a module with all in it; to its own parameters where that is too much."""
        fits = parameter_bytes(module) <= most_bytes
        modules = tuple(module.modules()) if fits else (module,)
        own = (p for inner in modules for p in inner._parameters.values() if p is not None)
        real = {id(p): _filled(p) for p in own if p.is_meta}
        on_meta = {
            id(real[id(p)]): p
            for inner in modules
            for p in inner._parameters.values()
            if id(p) in real
        }
        held = _Held(modules, {key: p for key, p in on_meta.items() if p is not None})
        held._replace(real)
        return held

    def let_go(self) -> None:
        """Put the parameters on meta back."""
        self._replace(self.on_meta)

    def _replace(self, by: dict[int, nn.Parameter]) -> None:
        if not by:
            return
        for module in self.modules:
            for name, parameter in module._parameters.items():
                module._parameters[name] = by.get(id(parameter), parameter)
        # Recurrent layers, for one, keep their parameters in lists as well.
        replace_in_attributes(self.modules[0], lambda tensor: by.get(id(tensor), tensor))


@contextmanager
def run_in_parts(model: nn.Module, most_bytes: int) -> Iterator[None]:
    """Around forwards of a model whose parameters are on meta: no more than so many have memory.

    That is what a module and all in it may have; a larger one has its own parameters alone.
    """
    modules = set(model.modules())
    held: list[_Held | None] = []

    def begin(module: nn.Module, _: Any) -> None:
        on_meta = module in modules and any(p.is_meta for p in module.parameters())
        held.append(_Held.of(module, most_bytes) if on_meta else None)

    def end(*_: Any) -> None:
        last = held.pop()
        if last is not None:
            last.let_go()

    with ExitStack() as stack:
        stack.callback(register_module_forward_pre_hook(begin).remove)
        stack.callback(register_module_forward_hook(end, always_call=True).remove)
        yield


def _filled(parameter: nn.Parameter) -> nn.Parameter:
    """Random values whose results are of about the size of their inputs."""
    values = torch.empty(parameter.shape, dtype=parameter.dtype)
    if values.dim() > 1:
        values.normal_(0, (values.shape[0] / max(1, values.numel())) ** 0.5)
    else:
        values.fill_(1)
    return nn.Parameter(values, requires_grad=parameter.requires_grad)
