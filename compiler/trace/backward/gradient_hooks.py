"""Hooks for gradients of parameters: kept where each stage would call them as the model does.

`register_hook` is called once for each microbatch, with the gradient of one parameter. The module
that owns the parameter runs as it is, hook included. Replicas and microbatches call it on their
own, so it must be a function of the gradient and of what does not change.
"""

import dis
import functools
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pipecut.compiler.graph import Graph
from pipecut.compiler.trace.opaque.untraceable import NotEvenOpaque, Untraceable
from pipecut.errors import TraceError

INSTEAD = "change gradients between pipe.step and optimizer.step in a loop of your own"
CONSTANT = (
    *(int, float, complex, str, bytes, type(None)),
    *(torch.dtype, torch.device, torch.Size, torch.memory_format),
)
# Python modules of functions that keep nothing; a draw of torch's is seen where backward runs.
MODULES = ("math", "torch", "torch.linalg", "torch.nn", "torch.nn.functional")
STORES = (
    *("STORE_GLOBAL", "STORE_DEREF", "STORE_ATTR", "STORE_SUBSCR", "STORE_SLICE"),
    *("DELETE_GLOBAL", "DELETE_DEREF", "DELETE_ATTR", "DELETE_SUBSCR"),
)
# By these names a hook reaches what its code does not show, other ranks, or a generator.
REACHING = {
    *("exec", "eval", "globals", "locals", "vars", "setattr", "delattr", "open", "input"),
    *("__import__", "__dict__", "__globals__", "distributed", "manual_seed", "seed"),
}


def refuse_parameter_hooks(model: nn.Module, opaque: Sequence[str]) -> frozenset[str]:
    """The names of parameters whose hooks are kept, in modules at the paths in `opaque`.

    Raises TraceError, and Untraceable for a module that may run as it is with them.
    """
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    kept = set()
    for name, parameter in model.named_parameters():
        for hook in (getattr(parameter, "_post_accumulate_grad_hooks", None) or {}).values():
            raise _refusal(name, hook, "which changes what microbatches have added up")
        for hook in (parameter._backward_hooks or {}).values():
            if len(names[id(parameter)]) > 1:
                raise _refusal(name, hook, "and is tied, so that stages have parts of its gradient")
            unknown = next(changing(hook), "")
            if unknown:
                raise _refusal(name, hook, f"which refers to {unknown}, which may change")
            owner = name.rpartition(".")[0]
            if not owner:
                raise _refusal(name, hook, "which no plan would call")
            if not any(f"{owner}.".startswith(f"{path}.") for path in opaque):
                reason = f"its parameter '{name}' has a gradient hook, {named(hook)}"
                raise Untraceable(f"'{owner}' cannot be traced: {reason}; {INSTEAD}", owner, reason)
            kept.add(name)
    return frozenset(kept)


def refuse_shared_hooks(graph: Graph, hooked: frozenset[str]) -> None:
    """Raises TraceError where more than one call uses a parameter that has a hook.

    Calls may be on several stages, each with a part of the gradient.
    """
    for parameter in graph.parameters:
        users = [operator for operator in graph.operators if parameter.value in operator.inputs]
        if hooked.intersection(parameter.names) and len(users) > 1:
            raise TraceError(
                f"the parameter '{parameter.names[0]}' has a gradient hook, and is used at "
                f"{len(users)} places, which may be on several stages; {INSTEAD}"
            )


def _refusal(name: str, hook: Any, why: str) -> TraceError:
    text = f"the parameter '{name}' has a gradient hook, {named(hook)}, {why}; {INSTEAD}"
    return NotEvenOpaque(text)


def named(hook: Any) -> str:
    """A hook's name, and where its code is."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    code = getattr(hook, "__code__", None) or getattr(type(hook).__call__, "__code__", None)
    line = f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
    return f"{getattr(hook, '__qualname__', type(hook).__name__)}{line}"


def changing(hook: Any, depth: int = 3) -> Iterator[str]:
    """What a hook refers to, or keeps, that may be another thing at its next call."""
    if isinstance(hook, functools.partial):
        yield from _unsteady({"an argument": hook.args, **hook.keywords}, depth)
        hook = hook.func
    if not isinstance(hook, types.FunctionType):
        if not _is_steady(hook):
            yield f"a {type(hook).__name__}"
        return
    code = hook.__code__
    yield from _reached(code)
    cells = [cell.cell_contents for cell in hook.__closure__ or () if _is_filled(cell)]
    names = set().union(*(each.co_names for each in _with_inner(code)))
    referred = dict(zip(code.co_freevars, cells, strict=False))
    referred |= {name: hook.__globals__[name] for name in names if name in hook.__globals__}
    referred |= hook.__kwdefaults__ or {}
    yield from _unsteady({**referred, "a default": hook.__defaults__, **vars(hook)}, depth)


def _with_inner(code: types.CodeType) -> Iterator[types.CodeType]:
    """Code, and that of functions within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _with_inner(constant)


def _reached(code: types.CodeType) -> Iterator[str]:
    for each in _with_inner(code):
        operations = {instruction.opname for instruction in dis.get_instructions(each)}
        if operations.intersection(STORES):
            yield "something that it writes to"
        if "IMPORT_NAME" in operations:
            yield "what it imports"
        for name in sorted(REACHING.intersection(each.co_names)):
            yield f"'{name}'"


def _unsteady(values: Mapping[str, Any], depth: int) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, types.FunctionType) and depth:
            yield from changing(value, depth - 1)
        elif isinstance(value, tuple | frozenset) and type(value) in (tuple, frozenset):
            yield from _unsteady(_members(name, value), depth)
        elif not _is_steady(value):
            yield f"'{name}' ({type(value).__name__})"


def _is_steady(value: Any) -> bool:
    """Whether it is the same at every call: no tensor, which may be random or written to."""
    if isinstance(value, types.ModuleType):
        return value.__name__ in MODULES
    if isinstance(value, types.BuiltinFunctionType):
        # A method of an object is one of these as well; torch's functions are of a class of it.
        of = value.__self__
        return of is None or isinstance(of, types.ModuleType | type)
    return isinstance(value, CONSTANT)


def _members(name: str, values: Any) -> dict[str, Any]:
    return {f"{name}[{index}]": value for index, value in enumerate(values)}


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
