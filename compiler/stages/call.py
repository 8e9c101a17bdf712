"""One operator as an expression: `F.linear(x, w, b)` where that means the same, or the operator."""

import math
import re
from collections.abc import Callable
from typing import Any

from pipecut.compiler.graph import Literal, OpaqueCall, Operator, Ref, SizeOf, Sym, TupleOf
from pipecut.compiler.operators.autograd_functions import AutogradFunction
from pipecut.compiler.operators.forms import WrittenCall
from pipecut.compiler.operators.lookup import rule_of
from pipecut.compiler.operators.table import GETITEM

Names = Callable[[str], str]
READ = re.compile(r"\b[A-Za-z_]\w*")


def write_argument(value: Any, names: Names) -> str:
    """An argument structure as code."""
    if isinstance(value, Ref):
        return names(value.name)
    if isinstance(value, Sym):
        return _size(value, names)
    if isinstance(value, Literal):
        return value.code
    if isinstance(value, SizeOf):
        return f"torch.Size({write_argument(tuple(value), names)})"
    if isinstance(value, TupleOf):
        items = [write_argument(item, names) for item in value]
        return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
    if isinstance(value, tuple):
        return "[" + ", ".join(write_argument(item, names) for item in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, complex):
        return f"complex({write_argument(value.real, names)}, {write_argument(value.imag, names)})"
    return repr(value)


def _size(size: Sym, names: Names) -> str:
    """A size as code, in which what operators read goes by the names of their results."""
    if not size.read:
        return size.expression
    return READ.sub(lambda m: names(m[0]) if m[0] in size.read else m[0], size.expression)


def write_call(operator: Operator, names: Names) -> str:
    """The operator as an expression."""
    if operator.target == GETITEM:
        return f"{names(operator.inputs[0])}[{operator.args[1]}]"
    if operator.opaque is not None:
        return _opaque(operator, operator.opaque, names)
    modes = dict(operator.modes)

    def code(key: int | str, value: Any) -> str:
        written = write_argument(value, names)
        return _by_mode(written, write_argument(modes[key], names)) if key in modes else written

    args = [code(position, value) for position, value in enumerate(operator.args)]
    named = {key: code(key, value) for key, value in operator.kwargs}
    call = WrittenCall(
        operator.target,
        tuple(args),
        named,
        tensor_first=bool(operator.args) and isinstance(operator.args[0], Ref),
        by_mode=bool(operator.modes),
    )
    function = AutogradFunction.of_target(operator.target)
    if function is not None:
        return f"{function.code}({call.arguments()})"
    form = rule_of(operator.target).code
    readable = form(call) if form is not None else None
    return readable or f"torch.ops.{operator.target}({call.arguments()})"


def _opaque(operator: Operator, call: OpaqueCall, names: Names) -> str:
    """The call of a module that runs as it is: `self.moe(x, mask=mask)`."""
    arguments = [write_argument(argument, names) for argument in operator.args]
    code = f"{names(opaque_value(call.module))}({call.arguments.format(*arguments)})"
    if call.results == "nested":
        return f"tensors_in({code})"
    return code


def opaque_value(module: str) -> str:
    """What stands for a module that runs as it is where code asks for the name of a value."""
    return f"module {module}"


def _by_mode(training: str, evaluation: str) -> str:
    if (training, evaluation) in (("True", "False"), ("False", "True")):
        return "self.training" if training == "True" else "not self.training"
    return f"{training} if self.training else {evaluation}"
