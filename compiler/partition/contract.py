"""Groups of blocks merged into one block each, and placements of those read back."""

from dataclasses import replace

from pipecut.compiler.partition.problem import (
    Block,
    Duplicated,
    Members,
    Problem,
    Stages,
    TensorUse,
)


def contract(problem: Problem, members: Members) -> Problem:
    """Merge groups of blocks; `members` must stand in a topological order of the groups."""
    group_of = {block: at for at, group in enumerate(members) for block in group}

    def groups(blocks: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted({group_of[block] for block in blocks}))

    tensors = tuple(
        replace(tensor, source=group_of[tensor.source], consumers=consumers)
        for tensor in problem.tensors
        if (consumers := _others(groups(tensor.consumers), group_of[tensor.source]))
    )
    edges = frozenset(
        (group_of[u], group_of[v]) for u, v in problem.edges if group_of[u] != group_of[v]
    )
    return replace(
        problem,
        blocks=tuple(_merged_block(problem, group) for group in members),
        edges=edges,
        tensors=merge_tensors(tensors),
        shared=tuple(replace(shared, users=groups(shared.users)) for shared in problem.shared),
        pins=tuple(sorted({(group_of[block], stage) for block, stage in problem.pins})),
        splits=tuple(sorted({(group_of[u], group_of[v]) for u, v in problem.splits})),
        duplicated=tuple(Duplicated(d.operator, groups(d.users)) for d in problem.duplicated),
    )


def _others(groups: tuple[int, ...], source: int) -> tuple[int, ...]:
    return tuple(group for group in groups if group != source)


def _merged_block(problem: Problem, group: list[int]) -> Block:
    blocks, kinds = [problem.blocks[index] for index in group], problem.kinds
    return Block(
        tuple(sorted(operator for block in blocks for operator in block.operators)),
        {kind: sum(block.seconds[kind] for block in blocks) for kind in kinds},
        sum(block.saved_bytes for block in blocks),
        max(block.transient_bytes for block in blocks),
        {kind: sum(block.forward_seconds.get(kind, 0.0) for block in blocks) for kind in kinds},
    )


def merge_tensors(tensors: tuple[TensorUse, ...]) -> tuple[TensorUse, ...]:
    """Tensors with the same source and consumers as one: they always cross together."""
    merged: dict[tuple[int, tuple[int, ...]], TensorUse] = {}
    for tensor in tensors:
        key = tensor.source, tensor.consumers
        first = merged.get(key)
        if first is not None:
            tensor = replace(
                first,
                forward_bytes=first.forward_bytes + tensor.forward_bytes,
                backward_bytes=first.backward_bytes + tensor.backward_bytes,
                messages=first.messages + tensor.messages,
            )
        merged[key] = tensor
    return tuple(merged.values())


def expand(stages: Stages, members: Members, count: int) -> Stages:
    """A placement of groups as a placement of their `count` members."""
    result = [0] * count
    for stage, group in zip(stages, members, strict=True):
        for block in group:
            result[block] = stage
    return result
