"""Names of values: a node's own, or another value's where the node stands for that."""

from collections.abc import Container

from torch import fx


class Names:
    """Value names of one program. `taken` are the names of its nodes."""

    def __init__(self, taken: Container[str]) -> None:
        self._taken = taken
        self._aliases: dict[str, str] = {}

    def alias(self, name: str, value: str) -> None:
        """Let a name stand for a value of another name."""
        self._aliases[name] = value

    def alias_of(self, name: str) -> str | None:
        """The value a name stands for, where it is not its own."""
        return self._aliases.get(name)

    def value(self, name: str) -> str:
        """The value that a name stands for."""
        return self._aliases.get(name, name)

    def of(self, node: fx.Node, prefix: str) -> str:
        """The value of a node in a submodule whose nodes have a prefix."""
        return self.value(prefix + node.name)

    def free(self, name: str, values: Container[str]) -> str:
        """A name that neither a node nor one of `values` has."""
        while name in values or name in self._taken:
            name += "_"
        return name


def part_name(name: str, index: object) -> str:
    """The name of one tensor in a result that has several."""
    return f"{name}[{index}]"
