"""A stage as a module from its source as it would be emitted, without a file."""

import types
from collections.abc import Callable, Mapping

import torch
from torch import nn

from pipecut.compiler.graph import Graph
from pipecut.compiler.stages.cut import Cut
from pipecut.compiler.stages.source import write_stage


def build(
    graph: Graph,
    cut: Cut,
    stages: int,
    device: torch.device,
    buffers: Mapping[str, torch.Tensor],
    own_modules: Callable[..., None] | None = None,
) -> nn.Module:
    """The module of a cut, with the arguments of `module_of`."""
    return module_of(write_stage(graph, cut, stages), cut.index, device, buffers, own_modules)


def module_of(
    source: str,
    index: int,
    device: torch.device,
    buffers: Mapping[str, torch.Tensor],
    own_modules: Callable[..., None] | None = None,
) -> nn.Module:
    """The module of a stage's source, its parameters uninitialised.

    `buffers`, by their first name, stand for the stage's safetensors; `own_modules` for the
    function that puts the model's own modules into it.
    """
    name = f"stage_{index}"
    code = types.ModuleType(name)
    code.__file__ = f"{name}.py"
    exec(compile(source, f"<{name}>", "exec"), code.__dict__)
    if own_modules is not None:
        code.__dict__["put_own_modules"] = own_modules
    code.__dict__["load_file"] = lambda *_, **__: buffers
    module: nn.Module = getattr(code, f"Stage{index}")(device=device)
    return module
