"""What a layer's forward could leave behind beside its results, seen from outside."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from pipecut.compiler.trace.stamp.same_value import PLAIN
from pipecut.compiler.trace.watch.attributes import Copied, attributes_of

# What forwards do not change, or what torch itself does while it traces.
UNCHANGING = (*PLAIN, nn.Module, torch.Tensor, FunctionType, ModuleType, type)


@dataclass(frozen=True)
class Surroundings:
    """Attributes, buffers, globals and objects that code of a model can reach, by name."""

    values: Mapping[str, Copied]

    @staticmethod
    def of(modules: Mapping[str, nn.Module]) -> "Surroundings":
        """What it is now."""
        values: dict[str, Any] = {}
        for place, value in attributes_of(modules).items():
            values[f"'{place}'"] = value
            if hasattr(value, "__dict__") and not isinstance(value, UNCHANGING):
                values.update({f"'{place}.{name}'": v for name, v in vars(value).items()})
        for path, module in modules.items():
            values.update({f"buffer '{path}.{n}'": b for n, b in module._buffers.items()})
        for cls in {cls for module in modules.values() for cls in type(module).__mro__}:
            if not cls.__module__.startswith(("torch.", "builtins")):
                owners = {cls.__qualname__: vars(cls), cls.__module__: _globals_of(cls)}
                values.update(
                    {f"'{o}.{n}'": v for o, held in owners.items() for n, v in held.items()}
                )
        return Surroundings({name: Copied.of(value) for name, value in values.items()})

    def change(self, modules: Mapping[str, nn.Module]) -> str:
        """What is not any more as it was; "" where all is."""
        now = Surroundings.of(modules).values
        for name in {*self.values, *now}:
            if name not in now or name not in self.values:
                return name
            if self.values[name].differs(now[name].value):
                return name
        return ""


def _globals_of(cls: type) -> Mapping[str, Any]:
    module = sys.modules.get(cls.__module__)
    return {name: value for name, value in vars(module).items()} if module is not None else {}
