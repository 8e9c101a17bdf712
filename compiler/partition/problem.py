"""What the partitioner receives and returns, free of any model."""

from dataclasses import dataclass, replace
from typing import Literal

Comm = Literal["relay", "direct"]


@dataclass(frozen=True)
class Block:
    """Operators that stay together. Seconds by device kind (forward + backward of a microbatch), sizes in bytes."""

    operators: tuple[int, ...]
    seconds: dict[str, float]
    saved_bytes: int
    transient_bytes: int


@dataclass(frozen=True)
class Crossing:
    """A tensor that may cross boundaries: from its block to blocks that use it. Bytes and messages a microbatch."""

    name: str
    source: int
    consumers: tuple[int, ...]
    forward_bytes: float
    backward_bytes: float
    messages: int


@dataclass(frozen=True)
class Shared:
    """A parameter's bytes with gradient and optimizer states, on every stage that has one of its users."""

    name: str
    bytes: int
    users: tuple[int, ...]


@dataclass(frozen=True)
class Slot:
    """One stage's place: device kind, bytes of capacity less reserve, microbatches in flight, the link to the next."""

    kind: str
    capacity: int
    in_flight: int
    bandwidth: float
    latency: float


@dataclass(frozen=True)
class Problem:
    """Blocks stand in a topological order.

    `comm` says what a tensor costs. With `relay` it passes through every stage between, and both ends of each boundary
    pay. With `direct` it costs once on its own stage and once on each other stage that uses it. A consumer may stand
    before the source, as those of a backward operator do; `edges` alone say what must come in order.

    `pins` has pairs of a block and its stage, `splits` pairs of blocks of which the first stands on an earlier stage.
    """

    blocks: tuple[Block, ...]
    edges: frozenset[tuple[int, int]]
    crossings: tuple[Crossing, ...]
    shared: tuple[Shared, ...]
    slots: tuple[Slot, ...]
    comm: Comm = "relay"
    pins: tuple[tuple[int, int], ...] = ()
    splits: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Certificate:
    """Objective, bound in seconds; gap relative to the objective; seconds the solve took."""

    objective: float
    bound: float
    gap: float
    proven: bool
    solver: str
    seconds: float


@dataclass(frozen=True)
class Placement:
    """Stage of each operator, load of each stage in seconds, what is proven of it, and the problem that was solved."""

    stage_of: tuple[int, ...]
    loads: tuple[float, ...]
    certificate: Certificate
    problem: Problem


def transfer_seconds(problem: Problem, crossing: Crossing, slot: int) -> float:
    """Seconds a stage spends on a tensor and its gradient over its link."""
    link = problem.slots[slot]
    return (crossing.forward_bytes + crossing.backward_bytes) / link.bandwidth + crossing.messages * link.latency


def loads(problem: Problem, stages: list[int]) -> list[float]:
    """Seconds of each stage: its blocks and its transfers, not overlapped."""
    result = [0.0] * len(problem.slots)
    for block, stage in zip(problem.blocks, stages, strict=True):
        result[stage] += block.seconds[problem.slots[stage].kind]
    for crossing in problem.crossings:
        own, using = stages[crossing.source], {stages[c] for c in crossing.consumers}
        if problem.comm == "direct":
            for stage in using | {own} if using - {own} else ():
                result[stage] += transfer_seconds(problem, crossing, stage)
            continue
        for boundary in range(min(own, *using), max(own, *using)):
            seconds = transfer_seconds(problem, crossing, boundary)
            result[boundary] += seconds
            result[boundary + 1] += seconds
    return result


def memory(problem: Problem, stages: list[int]) -> list[int]:
    """Peak bytes of each stage, without the reserve."""
    count = len(problem.slots)
    kept, transient, fixed = [0.0] * count, [0] * count, [0] * count
    for block, stage in zip(problem.blocks, stages, strict=True):
        kept[stage] += block.saved_bytes
        transient[stage] = max(transient[stage], block.transient_bytes)
    for crossing in problem.crossings:
        own, using = stages[crossing.source], {stages[c] for c in crossing.consumers}
        relayed = {*range(own + 1, max(own, *using) + 1), *range(min(own, *using), own)}
        for stage in using - {own} if problem.comm == "direct" else relayed:
            kept[stage] += crossing.forward_bytes
    for shared in problem.shared:
        for stage in {stages[user] for user in shared.users}:
            fixed[stage] += shared.bytes
    return [round(fixed[s] + problem.slots[s].in_flight * kept[s] + transient[s]) for s in range(count)]


def parameters_of_blocks(problem: Problem) -> list[list[int]]:
    """For each block the indices of the parameters it uses."""
    result: list[list[int]] = [[] for _ in problem.blocks]
    for index, shared in enumerate(problem.shared):
        for user in shared.users:
            result[user].append(index)
    return result


def fits(problem: Problem, stages: list[int]) -> bool:
    """Whether every stage keeps within its capacity, and every block where it was told to be."""
    obeyed = all(stages[v] == s for v, s in problem.pins) and all(stages[u] < stages[v] for u, v in problem.splits)
    return obeyed and all(used <= slot.capacity for used, slot in zip(memory(problem, stages), problem.slots, strict=True))


def contract(problem: Problem, members: list[list[int]]) -> Problem:
    """Groups of blocks as one block each. `members` must stand in a topological order of the groups."""
    group_of = {block: at for at, group in enumerate(members) for block in group}
    kinds = sorted({slot.kind for slot in problem.slots})
    blocks = tuple(
        Block(
            tuple(sorted(i for v in group for i in problem.blocks[v].operators)),
            {kind: sum(problem.blocks[v].seconds[kind] for v in group) for kind in kinds},
            sum(problem.blocks[v].saved_bytes for v in group),
            max(problem.blocks[v].transient_bytes for v in group),
        )
        for group in members
    )
    crossings = tuple(
        replace(c, source=group_of[c.source], consumers=using)
        for c in problem.crossings
        if (using := tuple(sorted({group_of[v] for v in c.consumers} - {group_of[c.source]})))
    )
    edges = frozenset((group_of[u], group_of[v]) for u, v in problem.edges if group_of[u] != group_of[v])
    shared = tuple(replace(s, users=tuple(sorted({group_of[v] for v in s.users}))) for s in problem.shared)
    return replace(
        problem,
        blocks=blocks,
        edges=edges,
        crossings=merge_crossings(crossings),
        shared=shared,
        pins=tuple(sorted({(group_of[v], s) for v, s in problem.pins})),
        splits=tuple(sorted({(group_of[u], group_of[v]) for u, v in problem.splits})),
    )


def merge_crossings(crossings: tuple[Crossing, ...]) -> tuple[Crossing, ...]:
    """Tensors with the same source and consumers as one: they always cross together."""
    merged: dict[tuple[int, tuple[int, ...]], Crossing] = {}
    for c in crossings:
        key = c.source, c.consumers
        if key in merged:
            first = merged[key]
            c = replace(
                first,
                forward_bytes=first.forward_bytes + c.forward_bytes,
                backward_bytes=first.backward_bytes + c.backward_bytes,
                messages=first.messages + c.messages,
            )
        merged[key] = c
    return tuple(merged.values())
