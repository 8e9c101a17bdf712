"""Arguments of a call as code, with a place for each tensor and each whole number."""

import enum
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch

from pipecut.compiler.names import is_number
from pipecut.errors import TraceError

# Leaves that are written as they are.
PLAIN = (type(None), bool, float, str, complex)


@dataclass
class ArgumentCode:
    """`code` with places: `{0}, mask={1}`. Of one tensor that is passed twice there is one place.

    `imports` are modules of Python that the code names.
    """

    code: str = ""
    leaves: list[Any] = field(default_factory=list)
    imports: set[str] = field(default_factory=set)


def argument_code(args: tuple[Any, ...], kwargs: dict[str, Any], what: str) -> ArgumentCode:
    """Raises TraceError for an argument that no code can make; `what` is what is called."""
    written = ArgumentCode()
    parts = [_code(value, written, what) for value in args]
    parts += [f"{name}={_code(value, written, what)}" for name, value in kwargs.items()]
    written.code = ", ".join(parts)
    return written


def _code(value: Any, written: ArgumentCode, what: str) -> str:
    inner: Callable[[Any], str] = lambda member: _code(member, written, what)  # noqa: E731
    if isinstance(value, torch.Tensor | torch.SymInt) or type(value) is int:
        return _place(value, written)
    if type(value) in PLAIN:
        return _braced(repr(value) if value == value else 'float("nan")')
    if isinstance(value, torch.dtype | torch.layout | torch.memory_format):
        return str(value)
    if isinstance(value, enum.Enum):
        return f"{_class(type(value), written, what)}.{value.name}"
    if is_dataclass(value) and not isinstance(value, type):
        given = {f.name: getattr(value, f.name) for f in fields(value) if f.init}
        return _made(value, given, written, what)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return _made(value, dict(zip(value._fields, value, strict=True)), written, what)
    if type(value) is tuple:
        return f"({''.join(f'{inner(member)}, ' for member in value)})"
    if type(value) is list:
        return f"[{', '.join(map(inner, value))}]"
    if type(value) is dict and all(isinstance(key, str | int) for key in value):
        items = ", ".join(f"{_braced(repr(key))}: {inner(v)}" for key, v in value.items())
        return f"{{{{{items}}}}}"
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    raise TraceError(
        f"{what} is given a {kind}, which no stage's code can make; have it take tensors, numbers, "
        "strings, and tuples, dicts or dataclasses of these, or make the module around it opaque"
    )


def _place(value: Any, written: ArgumentCode) -> str:
    if isinstance(value, torch.Tensor):
        for place, leaf in enumerate(written.leaves):
            if leaf is value:
                return f"{{{place}}}"
    written.leaves.append(value)
    return f"{{{len(written.leaves) - 1}}}"


def _made(value: Any, given: dict[str, Any], written: ArgumentCode, what: str) -> str:
    name = _class(type(value), written, what)
    members = (f"{key}={_code(member, written, what)}" for key, member in given.items())
    return f"{name}({', '.join(members)})"


def _class(cls: type, written: ArgumentCode, what: str) -> str:
    """A class as code that imports it."""
    if "<locals>" in cls.__qualname__ or cls.__module__ == "__main__" or is_number(cls.__module__):
        raise TraceError(
            f"{what} is given a {cls.__qualname__} of {cls.__module__}, which no stage can import; "
            "define the class at the top of a module"
        )
    written.imports.add(cls.__module__)
    return f"{cls.__module__}.{cls.__qualname__}"


def _braced(code: str) -> str:
    """Code in which no brace is a place."""
    return code.replace("{", "{{").replace("}", "}}")
