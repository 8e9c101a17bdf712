"""A stage as calls of modules within each other, as the model makes them."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from pipecut.compiler.graph import ModuleCall, Operator

# What a caller may ask for: the model's results beside its loss, and the checks of its choices.
OUTPUTS, CHECKS = "outputs", "checks"
ASKED_FOR = (OUTPUTS, CHECKS)


@dataclass(frozen=True)
class HandOut:
    """A value for who asks for it, under its names, in the dictionary `into`."""

    value: str
    names: tuple[str, ...]
    into: str = OUTPUTS


@dataclass(frozen=True)
class SizedBy:
    """A size, such as `batch`, with the input and its dimension that tell it."""

    size: str
    value: str
    dimension: int


@dataclass(frozen=True)
class Block:
    """A call of a module, or the part of it that a stage has: operators and further calls in order.

    `path` are the calls around it and itself, `inputs` values from outside that are neither its
    parameters nor its buffers, in order of first use; `results` what is used outside.
    `needs` of sizes, `device`, `outputs` and `checks` are given by its caller. `contexts` are
    `with` statements around the whole call, `drops` values to let go after each item of the body.
    `part` says which part of a divided call it is: Start, Middle or End. `detached` are results of
    a stage to which no other stage gives a gradient.
    """

    path: tuple[ModuleCall, ...]
    body: "tuple[Item, ...]"
    inputs: tuple[str, ...]
    results: tuple[str, ...]
    needs: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()
    drops: tuple[tuple[str, ...], ...] = ()
    part: str = ""
    sized_by: tuple[SizedBy, ...] = ()
    device_of: str = ""
    refers_to: frozenset[str] = field(default_factory=frozenset)
    detached: frozenset[str] = frozenset()

    @property
    def module(self) -> str:
        """The FQN of the module."""
        return self.path[-1].module

    @property
    def class_name(self) -> str:
        """The name of its class, with the part of it that a stage has."""
        return f"{self.path[-1].class_name or 'Model'}{self.part}"

    def calls(self) -> "Iterator[Block]":
        """Calls within, each before those that it makes, itself first."""
        yield self
        for item in self.body:
            if isinstance(item, Block):
                yield from item.calls()

    def operators(self) -> Iterator[Operator]:
        """All operators in order, those of calls within included."""
        for item in self.body:
            if isinstance(item, Operator):
                yield item
            elif isinstance(item, Block):
                yield from item.operators()

    def __str__(self) -> str:
        """A line per call and operator, indented by depth."""
        lines = [
            f"{self.module or 'model'} ({', '.join(self.inputs)}) -> {', '.join(self.results)}"
        ]
        for item in self.body:
            if isinstance(item, HandOut):
                lines.append(f"  {item.into} {', '.join(item.names)}: {item.value}")
            else:
                text = str(item) if isinstance(item, Block) else f"{item.name} = {item}"
                lines += [f"  {line}" for line in text.splitlines()]
        return "\n".join(lines)


Item = Operator | Block | HandOut


def used_by(item: Item) -> tuple[str, ...]:
    """The values that an item of a body uses."""
    return (item.value,) if isinstance(item, HandOut) else item.inputs


def made_by(item: Item) -> tuple[str, ...]:
    """The values that an item of a body makes."""
    if isinstance(item, HandOut):
        return ()
    return item.results if isinstance(item, Block) else (item.name,)
