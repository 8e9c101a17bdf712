"""A cut -> a stage's Python file: plain torch, parameters under their original names, importable by itself."""

import re

from pipecut.compiler.graph import Graph, Operator, Sym
from pipecut.compiler.names import in_comment, in_docstring, local_names, member, quoted
from pipecut.compiler.stages.call import write_call
from pipecut.compiler.stages.cut import Cut

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


def write_stage(graph: Graph, cut: Cut, stages: int, modules: list[str]) -> str:
    """The source of stages/stage_N.py."""
    return _StageWriter(graph, cut, stages, modules).source()


class _StageWriter:
    def __init__(self, graph: Graph, cut: Cut, stages: int, modules: list[str]) -> None:
        self.graph, self.cut, self.stages, self.modules = graph, cut, stages, modules
        self.operators = [graph.operators[i] for i in cut.operators]
        self.held = {p.value: p.names[0] for p in cut.parameters} | {
            b.value: b.names[0] for b in cut.buffers
        }
        self.inputs = [*cut.receives, *cut.batch_inputs]
        # Batch inputs come first, so that they keep the user's own names.
        given = {
            value: name for value, name in graph.batch_names().items() if value in cut.batch_inputs
        }
        self.local = local_names(given, [*cut.receives, *(o.name for o in self.operators)])

    def source(self) -> str:
        last, gives = self.cut.index == self.stages - 1, self._gives()
        lines = [
            HEADER.format(
                index=self.cut.index,
                stages=self.stages,
                modules=in_docstring(", ".join(self.modules)) or "no module of its own",
                takes=", ".join(self._describe(name) for name in self.inputs) or "nothing",
                gives="the loss"
                if last
                else ", ".join(self._describe(name) for name in gives) or "nothing",
            )
        ]
        lines += self._constructor()
        lines += self._passes()
        return "\n".join(lines) + "\n"

    def _gives(self) -> list[str]:
        if self.cut.index < self.stages - 1:
            return list(self.cut.sends)
        return [self.graph.loss] if self.graph.loss else []

    def _passes(self) -> list[str]:
        """forward, and where the stage does something else in eval mode, one for each mode."""
        own = self._forward("forward")
        if self.graph.evaluation is None or self.cut.evaluation is None:
            return own
        other = _StageWriter(self.graph.evaluation, self.cut.evaluation, self.stages, [])
        if other._forward("forward") == own:
            return own
        training = self._forward("forward_in_training", outputs=False)
        return [*BY_MODE, *training, *other._forward("forward_in_evaluation")]

    def _describe(self, name: str) -> str:
        value = self.graph.values[name]
        return f"{self.local[name]} {value.dtype}[{', '.join(map(str, value.shape))}]"

    def _constructor(self) -> list[str]:
        lines = [
            f"class Stage{self.cut.index}(Group):",
            "    def __init__(self, device=None):",
            "        super().__init__()",
        ]
        for p in self.cut.parameters:
            shape = ", ".join([*map(str, p.shape), f"dtype=torch.{p.dtype}", "device=device"])
            frozen = "" if p.trainable else ", trainable=False"
            names = ", ".join(map(quoted, p.names))
            lines.append(f"        put(self, parameter({shape}{frozen}), {names})")
        if self.cut.buffers:
            lines.append(
                '        buffers = load_file(Path(__file__).with_suffix(".safetensors"), device=str(device or "cpu"))'
            )
        for b in self.cut.buffers:
            names = ", ".join(map(quoted, b.names))
            persistent = "" if b.persistent else ", persistent=False"
            lines.append(f"        put(self, buffers[{quoted(b.names[0])}], {names}{persistent})")
        return lines

    def _forward(self, method: str, outputs: bool = True) -> list[str]:
        gives = self._gives()
        # What the model gives beside its loss, where it is asked for.
        given = self._output_names() if outputs else {}
        arguments = ", ".join(
            [
                "self",
                *(self.local[name] for name in self.inputs),
                *(["outputs=None"] if given else []),
            ]
        )
        lines = ["", f"    def {method}({arguments}):"]
        lines += self._prelude()
        last_use = {name: i for i, o in enumerate(self.operators) for name in o.inputs}
        keep = {*gives}
        dead: list[str] = []
        module = ""
        contexts: tuple[str, ...] = ()
        for index, operator in enumerate(self.operators):
            if operator.module != module:
                if dead:
                    lines.append(f"        del {', '.join(dict.fromkeys(dead))}")
                    dead = []
                module, contexts = operator.module, ()
                # Where the code is installed says nothing to a reader.
                source = re.sub(r"\(.*/site-packages/", "(", operator.source)
                where = (
                    f"{module or 'the model itself'} ({operator.module_class or 'module'}){source}"
                )
                lines.append(f"        # {in_comment(where)}")
            indent = "        "
            if operator.contexts:
                if operator.contexts != contexts:
                    lines.append(f"        with {', '.join(operator.contexts)}:")
                indent += "    "
            contexts = operator.contexts
            lines.append(f"{indent}{self._assign(operator)}")
            if operator.name in given:
                kept = ", ".join(
                    f"{name!r}: {self._name(operator.name)}" for name in given[operator.name]
                )
                lines += ["        if outputs is not None:", f"            outputs |= {{{kept}}}"]
                contexts = ()
            local = [
                n for n in (*operator.inputs, operator.name) if n not in self.held and n not in keep
            ]
            dead += [self._name(n) for n in local if last_use.get(n, index) == index]
        returned = "".join(f"{self._name(name)}, " for name in gives).rstrip(" ")
        lines.append(f"        return ({returned})" if returned else "        return ()")
        return lines

    def _output_names(self) -> dict[str, list[str]]:
        """Values that the model returns, to its names for each."""
        names: dict[str, list[str]] = {}
        for output in self.cut.outputs:
            names.setdefault(output.value, []).append(output.name)
        return names

    def _prelude(self) -> list[str]:
        lines = []
        text = [repr((o.args, o.kwargs, o.contexts)) for o in self.operators]
        if any("Literal(code='device')" in t or "device.type" in t for t in text):
            source = self.local[self.inputs[0]] if self.inputs else "next(self.parameters())"
            lines.append(f"        device = {source}.device")
        if any(_has_sym((o.args, o.kwargs)) for o in self.operators):
            name = next(n for n in self.inputs if "batch" in self.graph.values[n].shape)
            lines.append(
                f"        batch = {self.local[name]}.size({self.graph.values[name].shape.index('batch')})"
            )
        written = [self.local[name] for name in self._written_inputs()]
        if written:
            lines.append(
                "        # The model changes these in place; what is given to a stage stays as it is."
            )
            lines += [f"        {name} = {name}.clone()" for name in written]
        return lines

    def _written_inputs(self) -> list[str]:
        """Batch inputs whose storage the stage writes to; writers of any other tensor are with its maker."""
        writes = {name for operator in self.operators for name in operator.writes}
        roots = self.graph.roots() if writes else {}
        storages = {roots.get(name, name) for name in writes}
        return [name for name in self.cut.batch_inputs if name in storages]

    def _assign(self, operator: Operator) -> str:
        return f"{self._name(operator.name)} = {write_call(operator, self._name)}"

    def _name(self, value: str) -> str:
        if value not in self.held:
            return self.local[value]
        return "self" + "".join(map(member, self.held[value].split(".")))


def _has_sym(value: object) -> bool:
    if isinstance(value, tuple):
        return any(_has_sym(item) for item in value)
    return isinstance(value, Sym)
