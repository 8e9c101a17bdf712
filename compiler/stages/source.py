"""A cut -> a stage's Python file: the model's own modules in plain torch, under their names.

The file imports nothing of pipecut, but where modules of the model run as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipecut.compiler.graph import Graph, Origin
from pipecut.compiler.names import in_docstring, quoted
from pipecut.compiler.stages.blocks.body import EVALUATION, FORWARD, INDENT, Methods
from pipecut.compiler.stages.blocks.classes import Classes
from pipecut.compiler.stages.blocks.held import Held
from pipecut.compiler.stages.blocks.hints import Hints
from pipecut.compiler.stages.blocks.modules import (
    Method,
    Modules,
    Tie,
    is_within,
    parameters_into,
)
from pipecut.compiler.stages.blocks.scope import readable
from pipecut.compiler.stages.blocks.tree import blocks
from pipecut.compiler.stages.blocks.wrapping import wrapped
from pipecut.compiler.stages.cut import Cut
from pipecut.compiler.stages.imports import functions_of, modules_named, with_imports
from pipecut.compiler.stages.modules import modules_covered

HEADER = '''"""Stage {index} of {stages}: {modules}

Takes: {takes}
Gives: {gives}
"""

{imports}
'''

GROUP = '''

class Group(nn.Module):
    """What the original model holds under one name; `group[3]` is its member named 3."""

    def __init__(self, members=()):
        super().__init__()
        for name in members:
            setattr(self, str(name), members[name])

    def __getitem__(self, name):
        return getattr(self, str(name))

    def __iter__(self):
        return iter(self.children())
'''

PUT = '''

def put(module, tensor, name, persistent=True):
    """Hold a parameter or a buffer under a name that it has in the original model."""
    path, _, last = name.rpartition(".")
    owner = module.get_submodule(path)
    if isinstance(tensor, nn.Parameter):
        owner.register_parameter(last, tensor)
    else:
        owner.register_buffer(last, tensor, persistent=persistent)
'''

ALLOCATE = '''

def allocate(module, device, dtype=None):
    """Give all parameters memory, uninitialised: load_state_dict fills it."""
    made = {}
    for owner in module.modules():
        for name, meta in owner._parameters.items():
            if meta is not None and meta not in made:
                empty = torch.empty(meta.shape, dtype=dtype or meta.dtype, device=device)
                made[meta] = nn.Parameter(empty, requires_grad=meta.requires_grad)
            owner._parameters[name] = made.get(meta)
'''

BY_MODE = [
    "    def forward(self, *given, **wanted):",
    "        if self.training:",
    "            return self.forward_in_training(*given, **wanted)",
    "        return self.forward_in_evaluation(*given, **wanted)",
    "",
]
TRAINING = "forward_in_training"


@dataclass(frozen=True)
class _Mode:
    """A stage as one mode runs it."""

    graph: Graph
    cut: Cut
    last: bool

    @property
    def returned(self) -> tuple[str, ...]:
        """What the next stage receives, or the loss, where the model has one in this mode."""
        if not self.last:
            return self.cut.sends
        return (self.graph.loss,) if self.graph.loss else ()

    def put_into(self, modules: Modules, name: str, outputs: bool = True) -> Modules:
        """Add what the stage does as its method of a name."""
        hints = Hints(self.graph, self.cut, self.returned)
        block = blocks(self.graph, self.cut, self.returned, outputs)
        modules.add(self.graph, block, hints, name)
        return modules


def write_stage(graph: Graph, cut: Cut, stages: int) -> str:
    """The source of stages/stage_N.py."""
    last = cut.index == stages - 1
    training = _Mode(graph, cut, last)
    modules = _modules(training, Held(cut))
    ties = parameters_into(modules.root, cut)
    parameter_dtypes = {parameter.dtype for parameter in cut.parameters}
    dtype = parameter_dtypes.pop() if len(parameter_dtypes) == 1 else ""
    classes = _classes(modules, dtype, f"Stage{cut.index}")
    lines = [*classes.lines, *_stage_class(cut, modules, classes, ties, graph.origin)]
    body, users_imports = with_imports(lines, functions_of(graph, cut))
    covered = modules_covered([graph.operators[index] for index in cut.operators])
    header = HEADER.format(
        index=cut.index,
        stages=stages,
        modules=in_docstring(", ".join(covered)) or "no module of its own",
        takes=_described(modules, (*cut.receives, *cut.batch_inputs), cut.batch_inputs),
        gives="the loss" if last else _described(modules, cut.sends),
        imports="\n".join([_imports("\n".join(body), modules_named(graph, cut)), *users_imports]),
    )
    tools = _tools("\n".join(body))
    rows = [row for line in body for row in wrapped(line)]
    return header + tools + "\n".join(rows) + "\n"


def _modules(training: _Mode, held: Held) -> Modules:
    """What all modules do: `forward` of the stage, or a method for each mode."""
    graph, cut = training.graph, training.cut
    together = training.put_into(Modules(held), FORWARD)
    if graph.evaluation is None or cut.evaluation is None:
        return together
    evaluation = _Mode(graph.evaluation, cut.evaluation, training.last)
    if evaluation.put_into(Modules(held), FORWARD).structure() == together.structure():
        return together
    apart = training.put_into(Modules(held), TRAINING, outputs=False)
    return evaluation.put_into(apart, EVALUATION)


def _classes(modules: Modules, dtype: str, stage: str) -> Classes:
    members = {module.name: tuple(module.members) for module in modules.root.all()}
    built: dict[str, str] = {}
    methods = Methods(modules.names, built, members)
    classes = Classes(modules.held, methods, dtype, stage, built)
    for module in modules.root.all():
        if module is not modules.root:
            classes.add(module)
    return classes


def _stage_class(
    cut: Cut, modules: Modules, classes: Classes, ties: Sequence[Tie], origin: Origin | None
) -> list[str]:
    """The stage itself: the model's own module, or what the stage has of it."""
    root = modules.root
    names = {name for parameter in cut.parameters for name in parameter.names}
    own = {name for name in names if is_within(name, cut.opaque)}
    lines = [
        "",
        "",
        f"class {classes.stage}({'Group' if classes.numbered(root) else 'nn.Module'}):",
    ]
    lines += classes.constructor(root, "self, device=None", on_meta=True) or [
        "    def __init__(self, device=None):",
        f"{INDENT}super().__init__()",
    ]
    within = [tie for tie in ties if {tie.name, tie.other} & own]
    lines += [_tied(modules, tie, cut.opaque) for tie in ties if tie not in within]
    if any(name not in own for parameter in cut.parameters for name in parameter.names):
        dtype = f", torch.{classes.dtype}" if classes.dtype else ""
        lines.append(f"{INDENT}allocate(self, device{dtype})")
    lines += _own_modules(cut, origin)
    lines += [_tied(modules, tie, cut.opaque) for tie in within]
    if cut.buffers:
        file, device = 'Path(__file__).with_suffix(".safetensors")', 'str(device or "cpu")'
        lines.append(f"{INDENT}buffers = load_file({file}, device={device})")
    for buffer in cut.buffers:
        persistent = "" if buffer.persistent else ", persistent=False"
        source = f"buffers[{quoted(buffer.names[0])}]"
        lines += [f"{INDENT}put(self, {source}, {quoted(n)}{persistent})" for n in buffer.names]
    lines.append("")
    if TRAINING in root.methods:
        lines += BY_MODE
    for position, (name, method) in enumerate(root.methods.items()):
        lines += [""] if position else []
        lines += classes.method(name, method, _copies(method, modules.held))
    return lines


def _tied(modules: Modules, tie: Tie, opaque: Sequence[str]) -> str:
    made = modules.held.access(tie.name)
    if is_within(tie.name, opaque):
        # Whatever holds it in the user's own module.
        made = f"self.get_parameter({quoted(tie.name)})"
    return f"{INDENT}put(self, {made}, {quoted(tie.other)})"


def _own_modules(cut: Cut, origin: Origin | None) -> list[str]:
    """The lines that put the model's own modules into the stage."""
    if not cut.opaque:
        return []
    assert origin is not None
    names = ", ".join(map(quoted, cut.opaque))
    return [
        f"{INDENT}# The model's own modules, called as they are: their code is the model's.",
        f"{INDENT}put_own_modules(self, {quoted(origin.factory)}, {origin.args!r}, [{names}], "
        f"seed={origin.seed}, precision={quoted(origin.precision)}, device=device)",
    ]


def _copies(method: Method, held: Held) -> list[str]:
    """Copies of batch inputs whose storage the stage writes to.

    Any other tensor is written on the stage that makes it.
    """
    operators = list(method.block.operators())
    writes = {name for operator in operators for name in operator.writes}
    roots = method.graph.roots() if writes else {}
    storages = {roots.get(name, name) for name in writes}
    batch = method.graph.batch_names()
    scope = readable(method.block, held, method.hints)
    written = [scope[name] for name in method.block.inputs if name in storages and name in batch]
    if not written:
        return []
    return [
        "# The model changes these in place; what is given to a stage stays as it is.",
        *(f"{name} = {name}.clone()" for name in written),
    ]


def _imports(body: str, named: set[str]) -> str:
    lines = ["import torch", *(f"import {name}" for name in sorted(named - {"torch"}))]
    if "F." in body:
        lines.append("import torch.nn.functional as F")
    if "load_file(" in body:
        lines = ["from pathlib import Path", "", *lines, "from safetensors.torch import load_file"]
    lines.append("from torch import nn")
    if "tensors_in(" in body:
        lines.append("from pipecut.model.opaque.nested import tensors_in")
    if "put_own_modules(" in body:
        lines.append("from pipecut.model.opaque.own_modules import put_own_modules")
    return "\n".join(lines)


def _tools(body: str) -> str:
    """The functions and classes that all stages have alike, where the stage uses them."""
    used = [PUT] if "put(" in body else []
    used += [ALLOCATE] if "allocate(" in body else []
    return "".join([GROUP] if "Group(" in body or "(Group)" in body else []) + "".join(used)


def _described(modules: Modules, names: Sequence[str], batch_inputs: Sequence[str] = ()) -> str:
    """`x (add_3 in plan.yaml) float32[batch, 16]`, for the docstring."""
    forward = next(iter(modules.root.methods.values()))
    scope = readable(forward.block, modules.held, forward.hints)
    texts = []
    for name in names:
        value = forward.graph.values[name]
        readable_name = scope.names.get(name) or forward.hints.of(name, ())
        differs = readable_name != name and name not in batch_inputs
        in_plan = f" ({name} in plan.yaml)" if differs else ""
        texts.append(f"{readable_name}{in_plan} {value.dtype}[{', '.join(map(str, value.shape))}]")
    return ", ".join(texts) or "nothing"
