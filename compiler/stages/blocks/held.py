"""Parameters, buffers and opaque modules as parts of the modules that hold them."""

from collections.abc import Iterable

from pipecut.compiler.names import member
from pipecut.compiler.stages.call import opaque_value
from pipecut.compiler.stages.cut import Cut


class Held:
    """The FQNs of a stage's parameters, buffers and opaque modules, by their values."""

    def __init__(self, cut: Cut) -> None:
        self.names = {p.value: p.names for p in cut.parameters}
        self.names |= {b.value: b.names for b in cut.buffers}
        self.names |= {opaque_value(module): (module,) for module in cut.opaque}

    @staticmethod
    def access(name: str) -> str:
        """The code for a part of the stage by its FQN: `self.layers[0].weight`."""
        return access(name.split("."))

    def __contains__(self, value: str) -> bool:
        return value in self.names

    def within(self, module: str, value: str) -> str | None:
        """The shortest name of a value relative to a module; None where it is not inside it."""
        prefix = f"{module}." if module else ""
        names = [n.removeprefix(prefix) for n in self.names.get(value, ()) if n.startswith(prefix)]
        return min(names, key=lambda name: name.count("."), default=None)

    def code(self, module: str, value: str) -> str | None:
        """The code for a value in a module's method: `self.weight`; None where it is not inside."""
        name = self.within(module, value)
        return None if name is None else access(name.split("."))


def access(parts: Iterable[str]) -> str:
    """The code for a member of a member of self: `self.layers[0].weight`."""
    code = "self"
    for part in parts:
        ending = member(part)
        plain = is_plain(part) or not ending.startswith(('["', "['"))
        code = code + ending if plain else f"getattr({code}, {ending[1:-1]})"
    return code


def is_plain(name: str) -> bool:
    """Whether a member's name may stand after a dot."""
    return member(name).startswith(".")
