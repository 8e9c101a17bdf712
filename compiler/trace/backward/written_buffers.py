"""Buffers that forward writes, where backward needs what was read: a copy is read instead.

Unsplit, backward follows its forward at once. In a pipeline the next microbatch's forward may come
between, and write to the buffer: autograd would refuse what it saved, or of a batch norm's
statistics not even notice.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipecut.compiler.graph import Buffer, Operator, Ref, Value, storage_roots
from pipecut.compiler.operators.table import COPY


def reading_copies(
    operators: Sequence[Operator], values: dict[str, Value], buffers: Iterable[Buffer]
) -> tuple[Operator, ...]:
    """The operators, with copies of written buffers for those whose results need gradients.

    `values` gets those of the copies. What is written later in the same forward stays as it is:
    there autograd refuses in the unsplit model, too.
    """
    roots = storage_roots(operators)
    held = {buffer.value for buffer in buffers}
    last_writes = {
        roots.get(name, name): index
        for index, operator in enumerate(operators)
        for name in operator.writes
        if roots.get(name, name) in held
    }
    if not last_writes:
        return tuple(operators)
    result: list[Operator] = []
    for index, operator in enumerate(operators):
        copied = {
            name: f"{operator.name}_reads_{position}"
            for position, name in enumerate(operator.inputs)
            if index > last_writes.get(roots.get(name, name), index)
        }
        if copied and _needs_gradient(operator, values):
            for name, copy in copied.items():
                values[copy] = replace(values[name], name=copy, needs_grad=False)
                result.append(_copy(operator, name, copy))
            operator = _renamed(operator, copied)
        result.append(operator)
    return tuple(result)


def _needs_gradient(operator: Operator, values: Mapping[str, Value]) -> bool:
    if operator.name in values:
        return values[operator.name].needs_grad
    parts = (value for name, value in values.items() if name.startswith(f"{operator.name}["))
    return any(part.needs_grad for part in parts)


def _copy(reader: Operator, name: str, copy: str) -> Operator:
    return replace(
        reader,
        name=copy,
        target=COPY,
        args=(Ref(name),),
        kwargs=(),
        inputs=(name,),
        writes=(),
        aliases=(),
        draws=(),
        modes=(),
        opaque=None,
        gives_none=(),
    )


def _renamed(operator: Operator, names: Mapping[str, str]) -> Operator:
    def other(argument: Any) -> Any:
        if isinstance(argument, Ref):
            return Ref(names.get(argument.name, argument.name))
        if isinstance(argument, tuple):
            return type(argument)(map(other, argument))
        return argument

    return replace(
        operator,
        args=other(operator.args),
        kwargs=other(operator.kwargs),
        inputs=tuple(names.get(name, name) for name in operator.inputs),
        aliases=tuple(names.get(name, name) for name in operator.aliases),
        gives_none=tuple(names.get(name, name) for name in operator.gives_none),
    )
