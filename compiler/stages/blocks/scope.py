"""Local variables of a body: a name is taken again once the value that had it is no more needed."""

from collections.abc import Iterator, Mapping

from pipecut.compiler.stages.blocks.block import Block, made_by, used_by
from pipecut.compiler.stages.blocks.held import Held
from pipecut.compiler.stages.blocks.hints import Hints


class Scope:
    """Code that stands for a value in a body."""

    def __init__(self, block: Block, held: Held, names: Mapping[str, str]) -> None:
        self.block, self.held, self.names = block, held, names

    def __getitem__(self, value: str) -> str:
        if value in self.names:
            return self.names[value]
        code = self.held.code(self.block.module, value)
        assert code is not None, f"{value} is not in {self.block.module}"
        return code


def neutral(block: Block, held: Held) -> Scope:
    """Numbered variables, so that bodies that do the same have the same code."""
    values = (*block.inputs, *(name for item in block.body for name in made_by(item)))
    return Scope(block, held, {value: f"v{number}" for number, value in enumerate(values)})


def readable(block: Block, held: Held, hints: Hints) -> Scope:
    """Variables named as in the model's source."""
    return Scope(block, held, dict(_named(block, hints)))


def _named(block: Block, hints: Hints) -> Iterator[tuple[str, str]]:
    last_use = {name: at for at, item in enumerate(block.body) for name in used_by(item)}
    last_use |= dict.fromkeys(block.results, len(block.body))
    owners: dict[str, str] = {}

    def take(value: str, wanted: str, at: int) -> tuple[str, str]:
        name, number = wanted, 1
        # No input is named as another, whether it is used or not.
        while name in owners and (at < 0 or last_use.get(owners[name], -1) > at):
            number += 1
            name = f"{wanted}_{number}"
        owners[name] = value
        return value, name

    for value in block.inputs:
        wanted = hints.of_input(value, block) if block.module else hints.of(value, block.path)
        yield take(value, wanted, -1)
    for at, item in enumerate(block.body):
        for value in made_by(item):
            yield take(value, hints.of(value, block.path), at)
