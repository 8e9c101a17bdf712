"""A cut -> a stage's Python file: plain torch, parameters under their original names.

The file imports nothing of pipecut.
"""

from pipecut.compiler.graph import Graph
from pipecut.compiler.names import in_docstring, quoted
from pipecut.compiler.stages.cut import Cut
from pipecut.compiler.stages.forward import INDENT, write_forward
from pipecut.compiler.stages.modules import modules_covered
from pipecut.compiler.stages.variables import Variables

HEADER = '''"""Stage {index} of {stages}: {modules}

Takes: {takes}
Gives: {gives}
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn


class Group(nn.Module):
    """What the original model holds under one name; `group[3]` is its member named 3."""

    def __getitem__(self, name):
        return getattr(self, str(name))


def put(module, tensor, *names, persistent=True):
    """Hold a tensor under its names in the original model."""
    for name in names:
        *path, last = name.split(".")
        owner = module
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, Group())
            owner = owner._modules[part]
        if isinstance(tensor, nn.Parameter):
            owner.register_parameter(last, tensor)
        else:
            owner.register_buffer(last, tensor, persistent=persistent)


def parameter(*shape, dtype, device, trainable=True):
    """An uninitialised parameter; load_state_dict fills it."""
    return nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=trainable)

'''


BY_MODE = [
    "",
    "    def forward(self, *given, **wanted):",
    "        if self.training:",
    "            return self.forward_in_training(*given)",
    "        return self.forward_in_evaluation(*given, **wanted)",
]


def write_stage(graph: Graph, cut: Cut, stages: int) -> str:
    """The source of stages/stage_N.py."""
    modules = modules_covered([graph.operators[index] for index in cut.operators])
    last = cut.index == stages - 1
    returned = "the loss" if last else _described(graph, cut, cut.sends)
    header = HEADER.format(
        index=cut.index,
        stages=stages,
        modules=in_docstring(", ".join(modules)) or "no module of its own",
        takes=_described(graph, cut, (*cut.receives, *cut.batch_inputs)),
        gives=returned,
    )
    lines = [header, *_constructor(cut), *_forwards(graph, cut, last)]
    return "\n".join(lines) + "\n"


def _forwards(graph: Graph, cut: Cut, last: bool) -> list[str]:
    """forward, and where the stage does something else in eval mode, one for each mode."""
    returned = _returned(graph, cut, last)
    training = write_forward(graph, cut, returned, "forward")
    if graph.evaluation is None or cut.evaluation is None:
        return training
    in_evaluation = graph.evaluation, cut.evaluation
    returned_there = _returned(*in_evaluation, last)
    if write_forward(*in_evaluation, returned_there, "forward") == training:
        return training
    return [
        *BY_MODE,
        *write_forward(graph, cut, returned, "forward_in_training", outputs=False),
        *write_forward(*in_evaluation, returned_there, "forward_in_evaluation"),
    ]


def _returned(graph: Graph, cut: Cut, last: bool) -> tuple[str, ...]:
    """What the next stage receives, or the loss, where the model has one in this mode."""
    if not last:
        return cut.sends
    return (graph.loss,) if graph.loss else ()


def _described(graph: Graph, cut: Cut, names: tuple[str, ...]) -> str:
    """`x float32[batch, 16]`, for the docstring."""
    variables = Variables(graph, cut)
    values = [(variables[name], graph.values[name]) for name in names]
    texts = [f"{name} {value.dtype}[{', '.join(map(str, value.shape))}]" for name, value in values]
    return ", ".join(texts) or "nothing"


def _constructor(cut: Cut) -> list[str]:
    lines = [
        f"class Stage{cut.index}(Group):",
        "    def __init__(self, device=None):",
        f"{INDENT}super().__init__()",
    ]
    for parameter in cut.parameters:
        dtype = f"dtype=torch.{parameter.dtype}"
        arguments = ", ".join([*map(str, parameter.shape), dtype, "device=device"])
        frozen = "" if parameter.trainable else ", trainable=False"
        names = ", ".join(map(quoted, parameter.names))
        lines.append(f"{INDENT}put(self, parameter({arguments}{frozen}), {names})")
    if cut.buffers:
        file, device = 'Path(__file__).with_suffix(".safetensors")', 'str(device or "cpu")'
        lines.append(f"{INDENT}buffers = load_file({file}, device={device})")
    for buffer in cut.buffers:
        names = ", ".join(map(quoted, buffer.names))
        persistent = "" if buffer.persistent else ", persistent=False"
        source = f"buffers[{quoted(buffer.names[0])}]"
        lines.append(f"{INDENT}put(self, {source}, {names}{persistent})")
    return lines
