"""What a body lets go before its end: memory that a later call of it could use."""

from collections import defaultdict
from collections.abc import Container, Mapping, Sequence

from pipecut.compiler.graph import Graph
from pipecut.compiler.stages.blocks.block import Block, Item, made_by, used_by

# A tensor matters that has this share of the largest that is made beside it.
MATTERS = 0.25


def dropped(
    graph: Graph,
    body: Sequence[Item],
    results: Sequence[str],
    roots: Mapping[str, str],
    made: Container[str],
) -> tuple[tuple[str, ...], ...]:
    """Values to let go after each item: all that share a storage which nothing needs any more.

    Only between calls of modules: what operators alone make is gone when their module returns, and
    what a module is given is its caller's. `roots` has the value whose storage another one shares,
    `made` the values that the body and calls within it make.
    """
    drops: list[tuple[str, ...]] = [()] * len(body)
    if not any(isinstance(item, Block) and len(item.body) > 1 for item in body):
        return tuple(drops)
    last_use = {name: at for at, item in enumerate(body) for name in used_by(item)}
    sharing: dict[str, list[str]] = defaultdict(list)
    for at, item in enumerate(body):
        for name in made_by(item):
            last_use.setdefault(name, at)
            sharing[roots.get(name, name)].append(name)
    bytes_of = {root: _bytes(graph, names) for root, names in sharing.items()}
    least = MATTERS * max(bytes_of.values(), default=0)
    makes_much = [
        isinstance(item, Block)
        or any(bytes_of[roots.get(name, name)] >= least for name in made_by(item))
        for item in body
    ]
    for root, names in sharing.items():
        at = max(last_use[name] for name in names)
        kept = root not in made or not set(names).isdisjoint(results)
        if not kept and bytes_of[root] >= least and any(makes_much[at + 1 :]):
            drops[at] += tuple(names)
    return tuple(drops)


def _bytes(graph: Graph, names: Sequence[str]) -> int:
    values = [graph.values[name] for name in names if name in graph.values]
    return max((value.bytes for value in values), default=0)
