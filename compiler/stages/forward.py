"""A cut -> the lines of its stage's forward."""

import re
from collections import defaultdict
from collections.abc import Sequence

from pipecut.compiler.graph import Graph, Literal, Operator, Sym
from pipecut.compiler.names import in_comment
from pipecut.compiler.stages.call import write_call
from pipecut.compiler.stages.cut import Cut
from pipecut.compiler.stages.variables import Variables

INDENT = "        "


def write_forward(
    graph: Graph, cut: Cut, returned: Sequence[str], method: str, outputs: bool = True
) -> list[str]:
    """A method that returns values, in this order; with `outputs` also those of the model."""
    variables = Variables(graph, cut)
    names_of = _output_names(cut) if outputs else {}
    inputs = [variables[name] for name in (*cut.receives, *cut.batch_inputs)]
    arguments = ", ".join(["self", *inputs, *(["outputs=None"] if names_of else [])])
    body = _Body(graph, cut, variables, returned, names_of)
    for index in cut.operators:
        body.add(graph.operators[index])
    results = "".join(f"{variables[name]}, " for name in returned).rstrip(" ")
    return [
        "",
        f"    def {method}({arguments}):",
        *_prelude(graph, cut, variables),
        *body.lines,
        f"{INDENT}return ({results})" if results else f"{INDENT}return ()",
    ]


class _Body:
    """The lines of a forward's operators, one after the other.

    What is no longer used is deleted where the next module begins: a `del` after every line would
    hide the model, and none would keep all activations alive while a stage is evaluated.
    """

    def __init__(
        self,
        graph: Graph,
        cut: Cut,
        variables: Variables,
        returned: Sequence[str],
        output_names: dict[str, list[str]],
    ) -> None:
        self.variables, self.output_names = variables, output_names
        self.kept = {*returned, *variables.held}
        operators = [graph.operators[index] for index in cut.operators]
        self.last_user = {name: o.name for o in operators for name in o.inputs}
        self.lines: list[str] = []
        self.module = ""
        self.contexts: tuple[str, ...] = ()
        self.unused: list[str] = []

    def add(self, operator: Operator) -> None:
        """Write an operator, under its module's comment and its `with` statements."""
        if operator.module != self.module:
            self._begin_module(operator)
        indent = INDENT
        if operator.contexts:
            if operator.contexts != self.contexts:
                self.lines.append(f"{INDENT}with {', '.join(operator.contexts)}:")
            indent += "    "
        self.contexts = operator.contexts
        call = write_call(operator, self.variables.__getitem__)
        self.lines.append(f"{indent}{self.variables[operator.name]} = {call}")
        self._hand_out(operator)
        for name in (*operator.inputs, operator.name):
            if name not in self.kept and self.last_user.get(name, operator.name) == operator.name:
                self.unused.append(self.variables[name])

    def _begin_module(self, operator: Operator) -> None:
        if self.unused:
            self.lines.append(f"{INDENT}del {', '.join(dict.fromkeys(self.unused))}")
            self.unused = []
        self.module, self.contexts = operator.module, ()
        # Where a package is installed says nothing to a reader.
        source = re.sub(r"\(.*/site-packages/", "(", operator.source)
        module = operator.module or "the model itself"
        where = f"{module} ({operator.module_class or 'module'}){source}"
        self.lines.append(f"{INDENT}# {in_comment(where)}")

    def _hand_out(self, operator: Operator) -> None:
        """Keep what the model returns beside its loss, where the caller asks for it."""
        names = self.output_names.get(operator.name)
        if names is None:
            return
        items = ", ".join(f"{name!r}: {self.variables[operator.name]}" for name in names)
        self.lines += [
            f"{INDENT}if outputs is not None:",
            f"{INDENT}    outputs |= {{{items}}}",
        ]
        self.contexts = ()


def _output_names(cut: Cut) -> dict[str, list[str]]:
    """Values that the model returns, to its names for each."""
    names: dict[str, list[str]] = defaultdict(list)
    for output in cut.outputs:
        names[output.value].append(output.name)
    return dict(names)


def _prelude(graph: Graph, cut: Cut, variables: Variables) -> list[str]:
    """The stage's device and batch size where operators refer to them; copies of written inputs."""
    operators = [graph.operators[index] for index in cut.operators]
    inputs = [*cut.receives, *cut.batch_inputs]
    lines = []
    if any(map(_refers_to_device, operators)):
        source = variables[inputs[0]] if inputs else "next(self.parameters())"
        lines.append(f"{INDENT}device = {source}.device")
    if any(map(_refers_to_batch, operators)):
        name = next(name for name in inputs if "batch" in graph.values[name].shape)
        dimension = graph.values[name].shape.index("batch")
        lines.append(f"{INDENT}batch = {variables[name]}.size({dimension})")
    written = [variables[name] for name in _written_inputs(graph, cut)]
    if written:
        lines.append(
            f"{INDENT}# The model changes these in place; what is given to a stage stays as it is."
        )
        lines += [f"{INDENT}{name} = {name}.clone()" for name in written]
    return lines


def _written_inputs(graph: Graph, cut: Cut) -> list[str]:
    """Batch inputs whose storage the stage writes to.

    Any other tensor is written on the stage that makes it.
    """
    writes = {name for index in cut.operators for name in graph.operators[index].writes}
    roots = graph.roots() if writes else {}
    storages = {roots.get(name, name) for name in writes}
    return [name for name in cut.batch_inputs if name in storages]


def _refers_to_device(operator: Operator) -> bool:
    arguments = _arguments(operator)
    code = [argument.code for argument in arguments if isinstance(argument, Literal)]
    return "device" in code or any("device.type" in text for text in (*code, *operator.contexts))


def _refers_to_batch(operator: Operator) -> bool:
    return any(isinstance(argument, Sym) for argument in _arguments(operator))


def _arguments(operator: Operator) -> list[object]:
    """All arguments, also those within tuples."""
    arguments: list[object] = []
    waiting: list[object] = [operator.args, operator.kwargs]
    while waiting:
        value = waiting.pop()
        if isinstance(value, tuple):
            waiting += value
        else:
            arguments.append(value)
    return arguments
