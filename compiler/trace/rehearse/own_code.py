"""Which code is the user's own, and where it reads a name."""

import dis
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from torch import nn

# Packages whose code depends on its arguments, and what holds for a whole trace.
KNOWN = {
    *sys.stdlib_module_names,
    # It replaces functions of Python's own typing, which torch calls for any model.
    "typing_extensions",
    *("torch", "functorch", "numpy", "sympy", "mpmath", "pipecut"),
}
INSTALLED = ("site-packages", "dist-packages")


def is_known(module: str | None) -> bool:
    """Whether a module is Python's, torch's or pipecut's."""
    return str(module).partition(".")[0] in KNOWN


def is_own(module: ModuleType | None) -> bool:
    """Whether a module is a file of the user's, no installed package."""
    if module is None or is_known(module.__name__):
        return False
    file = str(getattr(module, "__file__", None) or "")
    return bool(file) and not any(part in file for part in INSTALLED)


def modules_of(model: nn.Module, *functions: Any) -> Iterator[ModuleType]:
    """Python modules that define the classes of a model and some functions, torch's left out."""
    classes = {cls for module in model.modules() for cls in type(module).__mro__}
    names = {cls.__module__ for cls in classes} | {getattr(f, "__module__", "") for f in functions}
    for name in sorted(str(name) for name in names):
        if not is_known(name) and name in sys.modules:
            yield sys.modules[name]


def line_that_reads(name: str, modules: list[ModuleType]) -> str:
    """file:line of the first instruction in functions of modules that loads a name; "" if none."""
    for module in modules:
        for code in _code_of(module):
            for instruction in dis.get_instructions(code):
                loads = instruction.opname.startswith("LOAD_") and "FAST" not in instruction.opname
                names = instruction.argval == name and instruction.opname != "LOAD_CONST"
                if loads and (names or _is_key(instruction, name)) and instruction.positions:
                    return f"{code.co_filename}:{instruction.positions.lineno}"
    return ""


def _is_key(instruction: dis.Instruction, name: str) -> bool:
    """Whether a constant is loaded that may be a key of a dictionary."""
    return instruction.opname == "LOAD_CONST" and instruction.argval == name


def _code_of(module: ModuleType) -> Iterator[CodeType]:
    for value in list(vars(module).values()):
        value = getattr(value, "__wrapped__", value)
        if isinstance(value, FunctionType) and value.__module__ == module.__name__:
            yield from _within(value.__code__)
        elif isinstance(value, type) and value.__module__ == module.__name__:
            yield from _of_class(value)


def _of_class(cls: type) -> Iterator[CodeType]:
    for value in list(vars(cls).values()):
        value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if isinstance(value, FunctionType):
            yield from _within(value.__code__)
        elif isinstance(value, type) and value.__qualname__.startswith(f"{cls.__qualname__}."):
            yield from _of_class(value)


def _within(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _within(constant)
