"""Writes that no plan could carry out as the model does."""

from collections.abc import Iterable, Sequence

from pipecut.compiler.graph import Buffer, Operator, Parameter, storage_roots
from pipecut.errors import TraceError


def refuse_writes(
    operators: Sequence[Operator], parameters: Iterable[Parameter], constants: Iterable[Buffer]
) -> None:
    """Raises TraceError where forward writes to a parameter or to a plain tensor of the model.

    In a plan only optimizers write to parameters. A plain tensor is in no state_dict, and
    tracing itself writes to it.
    """
    held = {parameter.value: f"its parameter '{parameter.names[0]}'" for parameter in parameters}
    for constant in constants:
        held[constant.value] = f"'{constant.names[0]}', a tensor that is no buffer"
    roots = storage_roots(operators)
    for operator in operators:
        for name in {roots.get(name, name) for name in operator.writes} & held.keys():
            raise TraceError(
                f"the model's forward writes to {held[name]}{operator.source}, "
                "which a plan does not carry on; register it as a buffer (register_buffer), "
                "or write to it between steps in a loop of your own"
            )


def refuse_shared_writes(
    operators: Sequence[Operator],
    buffers: Iterable[Buffer],
    sharing: Iterable[tuple[str, str]],
) -> None:
    """Raises TraceError where the model writes to memory that two buffers share.

    A plan holds each buffer by itself. `sharing` has the names of buffers that share memory.
    """
    roots = storage_roots(operators)
    written = {roots.get(name, name) for operator in operators for name in operator.writes}
    changed = {name for buffer in buffers if buffer.value in written for name in buffer.names}
    for pair in sharing:
        if changed & set(pair):
            raise TraceError(
                f"buffers '{pair[0]}' and '{pair[1]}' share memory, and the model writes to it; "
                "make them one buffer, or give one of them a copy with .clone()"
            )
