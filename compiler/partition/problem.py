"""What the partitioner receives and returns, free of any model."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """Operators that stay together. Seconds by device kind (forward + backward of a microbatch), sizes in bytes."""

    operators: tuple[int, ...]
    seconds: dict[str, float]
    saved_bytes: int
    transient_bytes: int


@dataclass(frozen=True)
class Crossing:
    """A tensor that may cross boundaries: from its block to blocks that use it. Bytes a microbatch."""

    name: str
    source: int
    consumers: tuple[int, ...]
    forward_bytes: int
    backward_bytes: int


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
    """Blocks stand in a topological order. `lossless` says that no reduction could have cost the optimum."""

    blocks: tuple[Block, ...]
    edges: frozenset[tuple[int, int]]
    crossings: tuple[Crossing, ...]
    shared: tuple[Shared, ...]
    slots: tuple[Slot, ...]
    lossless: bool


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
    """Stage of each operator, load of each stage in seconds, and what is proven of it."""

    stage_of: tuple[int, ...]
    loads: tuple[float, ...]
    certificate: Certificate


def boundary_seconds(problem: Problem, crossing: Crossing, boundary: int) -> float:
    """Seconds both ends of a boundary spend on a tensor, activation and gradient."""
    slot = problem.slots[boundary]
    messages = 1 + (crossing.backward_bytes > 0)
    return (crossing.forward_bytes + crossing.backward_bytes) / slot.bandwidth + messages * slot.latency


def loads(problem: Problem, stages: list[int]) -> list[float]:
    """Seconds of each stage: its blocks, and the tensors over both its boundaries, not overlapped."""
    result = [0.0] * len(problem.slots)
    for block, stage in zip(problem.blocks, stages, strict=True):
        result[stage] += block.seconds[problem.slots[stage].kind]
    for crossing in problem.crossings:
        last = max((stages[c] for c in crossing.consumers), default=stages[crossing.source])
        for boundary in range(stages[crossing.source], last):
            seconds = boundary_seconds(problem, crossing, boundary)
            result[boundary] += seconds
            result[boundary + 1] += seconds
    return result


def memory(problem: Problem, stages: list[int]) -> list[int]:
    """Peak bytes of each stage, without the reserve."""
    count = len(problem.slots)
    kept, transient, fixed = [0] * count, [0] * count, [0] * count
    for block, stage in zip(problem.blocks, stages, strict=True):
        kept[stage] += block.saved_bytes
        transient[stage] = max(transient[stage], block.transient_bytes)
    for crossing in problem.crossings:
        last = max((stages[c] for c in crossing.consumers), default=stages[crossing.source])
        for stage in range(stages[crossing.source] + 1, last + 1):
            kept[stage] += crossing.forward_bytes
    for shared in problem.shared:
        for stage in {stages[user] for user in shared.users}:
            fixed[stage] += shared.bytes
    return [fixed[s] + problem.slots[s].in_flight * kept[s] + transient[s] for s in range(count)]
