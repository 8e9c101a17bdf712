"""Where in the user's code a node comes from."""

from dataclasses import dataclass

from torch import fx


@dataclass(frozen=True)
class CallingModule:
    """The innermost module whose forward made a node: its FQN and its class; "" for the model."""

    name: str
    class_name: str


def calling_module(node: fx.Node) -> CallingModule:
    """The module that a node was traced in."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack or str(stack[-1][0]).startswith("_"):
        return CallingModule("", "")
    path, qualified_class = map(str, stack[-1])
    name = path.removeprefix("model").removeprefix(".")
    return CallingModule(name, qualified_class.rsplit(".", 1)[-1])


def where(node: fx.Node) -> str:
    """` (file:line)` of the innermost frame, to add to a message; "" where it is not known."""
    trace = node.meta.get("stack_trace") or ""
    frames = [line.strip() for line in trace.splitlines() if line.strip().startswith("File ")]
    if not frames:
        return ""
    path, line = frames[-1].split(",")[:2]
    return f" ({path.removeprefix('File ').strip(chr(34))}:{line.removeprefix(' line ')})"
