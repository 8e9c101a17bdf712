"""The operator of an opaque module in a trace, as the graph has it."""

from dataclasses import replace
from typing import Any

from pipecut.compiler.graph import ModuleCall, OpaqueCall, Operator
from pipecut.compiler.trace.opaque.calls import KnownCall
from pipecut.compiler.trace.opaque.standing_in import StandingIn


def as_opaque(operator: Operator, standing_in: StandingIn) -> Operator:
    """A traced operator's own arguments replaced by those that its module is given.

    `operator` takes tensors, what the module holds, numbers, the call's number, the batch's sizes.
    """
    tensors, held, numbers, call, _ = operator.args
    known = standing_in.calls[call]
    given = tuple(dict.fromkeys(ref.name for ref in (*tensors, *held)))
    names = [ref.name for ref in (*tensors, *held)]
    shared = {names[at] for tensor in known.tensors for at in tensor.seen.shares}
    written = tuple(dict.fromkeys(names[at] for at in known.written))
    return replace(
        operator,
        args=_in_order(known, tensors, numbers),
        kwargs=(),
        inputs=given,
        module=known.key.path,
        writes=written,
        calls=_around(operator.calls, known.key.path),
        aliases=tuple(name for name in given if name in shared),
        opaque=OpaqueCall(
            known.key.path,
            known.arguments,
            known.imports,
            known.form,
            tuple(tensor.seen.needs_grad for tensor in known.tensors),
            standing_in.has_recurrent_dropout(known.key.path),
            known.work,
            known.others,
        ),
    )


def _around(calls: tuple[ModuleCall, ...], path: str) -> tuple[ModuleCall, ...]:
    """The calls around an opaque module, without its own."""
    return calls[: next((at for at, call in enumerate(calls) if call.module == path), -1)]


def _in_order(known: KnownCall, tensors: tuple[Any, ...], numbers: tuple[Any, ...]) -> Any:
    """Tensors and numbers in the order of their places in the call's code."""
    tensor, number = iter(tensors), iter(numbers)
    return tuple(next(tensor) if is_tensor else next(number) for is_tensor in known.places)
