"""What a stage imports for its calls: the user's autograd.Functions, modules of Python."""

import builtins
import keyword
import re
from collections.abc import Iterable, Sequence

from pipecut.compiler.graph import Graph, Operator
from pipecut.compiler.names import RESERVED
from pipecut.compiler.operators.autograd_functions import AutogradFunction
from pipecut.compiler.stages.cut import Cut, in_each_mode

NAME = re.compile(r"[A-Za-z_]\w*")


def functions_of(graph: Graph, cut: Cut) -> list[AutogradFunction]:
    """The Functions that a stage calls in either mode, sorted."""
    return _functions(_operators(graph, cut))


def modules_named(graph: Graph, cut: Cut) -> set[str]:
    """Modules of Python that calls of opaque modules name, in either mode."""
    calls = (operator.opaque for operator in _operators(graph, cut))
    return {name for call in calls if call is not None for name in call.imports}


def _operators(graph: Graph, cut: Cut) -> list[Operator]:
    parts = in_each_mode(graph, cut)
    return [part.operators[index] for part, part_cut in parts for index in part_cut.operators]


def functions_called(graph: Graph) -> list[str]:
    """The targets of all Functions that a model calls, in either mode."""
    evaluation = graph.evaluation.operators if graph.evaluation is not None else ()
    return [function.target for function in _functions((*graph.operators, *evaluation))]


def _functions(operators: Iterable[Operator]) -> list[AutogradFunction]:
    functions = (AutogradFunction.of_target(operator.target) for operator in operators)
    return sorted({function for function in functions if function is not None}, key=str)


def with_imports(
    lines: Sequence[str], functions: Iterable[AutogradFunction]
) -> tuple[list[str], list[str]]:
    """The lines with the Functions' names in place of their tokens, and the imports of these.

    A name that means something else in the lines is imported under another one.
    """
    taken = RESERVED | set(NAME.findall("\n".join(lines))) | set(dir(builtins))
    named: dict[str, str] = {}
    imports = []
    for function in functions:
        if function.token in named:
            continue
        name, number = function.outermost, 1
        while name in taken or keyword.iskeyword(name):
            number += 1
            name = f"{function.outermost}_{number}"
        taken.add(name)
        named[function.token] = name
        renamed = f" as {name}" if number > 1 else ""
        imports.append(f"from {function.module} import {function.outermost}{renamed}")
    if not imports:
        return list(lines), []
    tokens = re.compile("|".join(named))
    return [tokens.sub(lambda found: named[found[0]], line) for line in lines], ["", *imports]
