"""Where in the user's code a node comes from."""

import inspect
import re
import sys
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

from torch import fx

from pipecut.compiler.graph import ModuleCall
from pipecut.plan.sources import INSTALLED

# `query, key: Tensor = ...` and `x += ...`, but no comparison.
ASSIGNMENT = re.compile(r"(\w+(?:\s*,\s*\w+)*)\s*(?::[^=]+?)?\s*[-+*/@%&|^]*=(?!=)")
# `cos` and `sin` of `return cos.to(dtype), sin`.
RETURN = re.compile(r"return\b(?P<values>.*)")
RETURNED = re.compile(r"\s*(?!self\b|torch\b|F\b|nn\b)([a-z]\w*)\s*(?:\.\w+\([^()]*\))*\s*(?:,|$)")
FRAME = re.compile(r'File "(?P<file>.*?)", line (?P<line>\d+), in forward\n\s*(?P<code>.*)')


def module_calls(node: fx.Node) -> tuple[ModuleCall, ...]:
    """The calls of modules that a node was traced in, the model's own first."""
    stack = list((node.meta.get("nn_module_stack") or {}).items())
    frames = list(FRAME.finditer(node.meta.get("stack_trace") or ""))
    calls = [ModuleCall("", "")]
    # A frame for each module, innermost last; torch leaves out what is no forward of a module.
    pairs = list(zip_longest(reversed(stack), reversed(frames[-len(stack) :])))
    for (key, (path, qualified_class)), frame in reversed(pairs if stack else []):
        if str(path).startswith("_"):
            continue
        within_model = str(path).removeprefix("model")
        if within_model == str(path):
            # The loss is computed around the model.
            continue
        number = key.rpartition("@")[2]
        call = ModuleCall(
            within_model.removeprefix("."),
            class_name=str(qualified_class).rsplit(".", 1)[-1],
            number=int(number) if "@" in key and number.isdigit() else 0,
            line=int(frame["line"]) if frame else 0,
            targets=_targets(frame["code"]) if frame else (),
            takes=_takes(str(qualified_class)),
        )
        calls = [call] if not call.module else [*calls, call]
    return tuple(calls)


@cache
def _targets(code: str) -> tuple[str, ...]:
    """Variables that a line of code assigns or returns: `query, key` of `query, key = f(x)`."""
    assignment = ASSIGNMENT.match(code)
    if assignment:
        return tuple(name.strip() for name in assignment[1].split(","))
    returned = RETURN.match(code)
    names, at = [], 0
    while returned and at < len(returned["values"]):
        name = RETURNED.match(returned["values"], at)
        if name is None:
            return ()
        names.append(name[1])
        at = name.end()
    return tuple(names)


@cache
def _takes(qualified_class: str) -> tuple[str, ...]:
    """What the forward of a class takes, by name; nothing where the class cannot be found."""
    module, _, name = qualified_class.rpartition(".")
    forward = getattr(getattr(sys.modules.get(module), name, None), "forward", None)
    if forward is None:
        return ()
    return tuple(inspect.signature(inspect.unwrap(forward)).parameters)[1:]


def where(node: fx.Node) -> str:
    """` (file:line)` of the innermost frame, to add to a message; "" where it is not known."""
    trace = node.meta.get("stack_trace") or ""
    frames = [line.strip() for line in trace.splitlines() if line.strip().startswith("File ")]
    if not frames:
        return ""
    path, line = frames[-1].split(",")[:2]
    file = importable_path(path.removeprefix("File ").strip(chr(34)))
    return f" ({file}:{line.removeprefix(' line ')})"


def where_forward(cls: type) -> str:
    """` (file:line)` of the forward of a module's class; "" where it has no source."""
    forward: Any = getattr(cls, "forward", None)
    code = getattr(inspect.unwrap(forward), "__code__", None) if forward else None
    return f" ({importable_path(code.co_filename)}:{code.co_firstlineno})" if code else ""


@cache
def importable_path(file: str) -> str:
    """A file from the folder that it is imported from: that of packages, or the user's own.

    Where on this machine such a folder lies says nothing to who reads a plan on another.
    """
    path = Path(file)
    installed = [place for place, part in enumerate(path.parts) if part in INSTALLED]
    if installed:
        return str(Path(*path.parts[installed[-1] + 1 :]))
    folders = [Path(folder or Path.cwd()) for folder in sys.path]
    around = [folder for folder in folders if path.is_relative_to(folder)]
    if around:
        # Of the current folder and the job's within it, the outer one: it says more.
        return str(path.relative_to(min(around, key=lambda folder: len(folder.parts))))
    root = path.parent
    while root != root.parent and (root / "__init__.py").is_file():
        root = root.parent
    return str(path.relative_to(root))
