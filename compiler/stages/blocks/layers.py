"""Layers in a row that are alike: a loop in the code."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipecut.compiler.names import is_number
from pipecut.compiler.stages.blocks.block import Block, used_by
from pipecut.compiler.stages.blocks.scope import Scope


@dataclass(frozen=True)
class Run:
    """Items from `start` to before `end`, calls of a container's members numbered in a row.

    `carried`: the position of an input, to that of the result of the layer before that it takes.
    """

    start: int
    end: int
    container: str
    carried: Mapping[int, int]


def run_at(
    block: Block, start: int, alike: Callable[[Block, Block], bool], scope: Scope
) -> Run | None:
    """The longest run from a position on, of two layers at least; None where there is none."""
    first = block.body[start]
    if not isinstance(first, Block) or not is_number(_number(first)):
        return None
    if first.contexts != block.contexts:
        return None
    carried: dict[int, int] | None = None
    end = start + 1
    while end < len(block.body):
        layer, item = block.body[end - 1], block.body[end]
        assert isinstance(layer, Block)
        if not isinstance(item, Block) or not _follows(layer, item) or not alike(layer, item):
            break
        links = _links(layer, item)
        if links is None or (carried is not None and links != carried):
            break
        carried = links
        end += 1
    while carried is not None and end - start > 1:
        run = Run(start, end, _container(first), carried)
        if _stays_inside(block, run, scope):
            return run
        end -= 1
    return None


def _number(block: Block) -> str:
    return block.module.rpartition(".")[2]


def _container(block: Block) -> str:
    return block.module.rpartition(".")[0]


def _follows(layer: Block, after: Block) -> bool:
    if _container(layer) != _container(after) or not is_number(_number(after)):
        return False
    return int(_number(after)) == int(_number(layer)) + 1 and layer.contexts == after.contexts


def _links(layer: Block, after: Block) -> dict[int, int] | None:
    """Which inputs are the layer's results; None where another one differs."""
    links = {}
    if len(layer.inputs) != len(after.inputs) or len(layer.results) != len(after.results):
        return None
    for position, (given, then) in enumerate(zip(layer.inputs, after.inputs, strict=True)):
        if then in layer.results:
            links[position] = layer.results.index(then)
        elif given != then:
            return None
    return links if len(links) == len(layer.results) else None


def _stays_inside(block: Block, run: Run, scope: Scope) -> bool:
    """Whether what a layer gives is used by the next one alone, and always has the same names."""
    layers = [item for item in block.body[run.start : run.end] if isinstance(item, Block)]
    inner = {name for layer in layers[:-1] for name in layer.results}
    outside = [*block.body[: run.start], *block.body[run.end :]]
    if not inner.isdisjoint(block.results):
        return False
    if any(not inner.isdisjoint(used_by(item)) for item in outside):
        return False
    names = {tuple(scope[name] for name in layer.results) for layer in layers}
    first = layers[0]
    others = {scope[name] for at, name in enumerate(first.inputs) if at not in run.carried}
    return len(names) == 1 and others.isdisjoint(*names)
