"""What the partitioner receives and returns, free of any model."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

Comm = Literal["relay", "direct"]
Recompute = Literal["auto", "never", "always"]


@dataclass(frozen=True)
class Block:
    """Operators that stay together. Sizes in bytes, seconds by device kind for a microbatch.

    `seconds` are those of forward and backward, `forward` those of forward alone: what recomputing adds.
    """

    operators: tuple[int, ...]
    seconds: dict[str, float]
    saved_bytes: int
    transient_bytes: int
    forward: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorUse:
    """A tensor that may cross boundaries: from its block to blocks that use it. Bytes and messages a microbatch."""

    name: str
    source: int
    consumers: tuple[int, ...]
    forward_bytes: float
    backward_bytes: float
    messages: int


@dataclass(frozen=True)
class SharedParameter:
    """What every stage has that has one of its users.

    A parameter: its bytes with gradient and optimizer states. Or what depends on no input and is made where it is used:
    seconds and saved bytes as of a block.
    """

    name: str
    bytes: int
    users: tuple[int, ...]
    seconds: dict[str, float] = field(default_factory=dict)
    forward: dict[str, float] = field(default_factory=dict)
    saved_bytes: int = 0

    def work(self, kind: str, recompute: bool) -> float:
        """Seconds that making it takes on a kind of device."""
        return self.seconds.get(kind, 0.0) + (self.forward.get(kind, 0.0) if recompute else 0.0)

    def held(self, saving: int) -> int:
        """Bytes of it, with those saved of so many microbatches."""
        return self.bytes + saving * self.saved_bytes


@dataclass(frozen=True)
class StageDevice:
    """One stage's place: device kind, bytes of capacity less reserve, microbatches in flight, the link to the next."""

    kind: str
    capacity: int
    in_flight: int
    bandwidth: float
    latency: float

    def saving(self, recompute: bool) -> int:
        """Microbatches whose saved activations are held at once: one at a time where the stage recomputes."""
        return min(1, self.in_flight) if recompute else self.in_flight


@dataclass(frozen=True)
class Problem:
    """Blocks stand in a topological order.

    `comm` says what a tensor costs. With `relay` it passes through every stage between, and both ends of each boundary
    pay. With `direct` it costs once on its own stage and once on each other stage that uses it. A consumer may stand
    before the source, as those of a backward operator do; `edges` alone say what must come in order.

    `pins` has pairs of a block and its stage, `splits` pairs of blocks of which the first stands on an earlier stage.

    `recompute` says who recomputes: where it is allowed, a device whose saved activations do not fit keeps what its stages
    receive, and runs their forward again before each backward. `devices` has the device of each stage; empty when each has
    its own. A device's load is the sum of its stages', and with direct transfers nothing moves between them.

    `made` has the operators that are in no block: each stage runs those of them that its blocks need.
    """

    blocks: tuple[Block, ...]
    edges: frozenset[tuple[int, int]]
    tensors: tuple[TensorUse, ...]
    shared: tuple[SharedParameter, ...]
    stage_devices: tuple[StageDevice, ...]
    comm: Comm = "relay"
    pins: tuple[tuple[int, int], ...] = ()
    splits: tuple[tuple[int, int], ...] = ()
    recompute: Recompute = "never"
    devices: tuple[int, ...] = ()
    made: tuple[int, ...] = ()

    @property
    def device_of(self) -> tuple[int, ...]:
        """The device of each stage."""
        return self.devices or tuple(range(len(self.stage_devices)))


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
    """Stages of each operator, several where each makes it for itself; load in seconds of each stage, and whether it recomputes;

    what is proven; the problem solved.
    """

    stages_of: tuple[frozenset[int], ...]
    loads: tuple[float, ...]
    recompute: tuple[bool, ...]
    certificate: Certificate
    problem: Problem


def transfer_seconds(problem: Problem, tensor: TensorUse, slot: int) -> float:
    """Seconds a stage spends on a tensor and its gradient over its link."""
    link = problem.stage_devices[slot]
    return (
        tensor.forward_bytes + tensor.backward_bytes
    ) / link.bandwidth + tensor.messages * link.latency


def loads(problem: Problem, stages: list[int]) -> list[float]:
    """Seconds of each stage: its blocks, what it recomputes, and its transfers, not overlapped."""
    result = [0.0] * len(problem.stage_devices)
    again = recomputed(problem, stages)
    for block, stage in zip(problem.blocks, stages, strict=True):
        kind = problem.stage_devices[stage].kind
        result[stage] += block.seconds[kind] + (
            block.forward.get(kind, 0.0) if again[stage] else 0.0
        )
    for shared in problem.shared:
        for stage in {stages[user] for user in shared.users} if shared.seconds else ():
            result[stage] += shared.work(problem.stage_devices[stage].kind, again[stage])
    device_of = problem.device_of
    for tensor in problem.tensors:
        own, using = stages[tensor.source], {stages[c] for c in tensor.consumers}
        if problem.comm == "direct":
            for stage in _ends(device_of, own, using):
                result[stage] += transfer_seconds(problem, tensor, stage)
            continue
        for boundary in range(min(own, *using), max(own, *using)):
            seconds = transfer_seconds(problem, tensor, boundary)
            result[boundary] += seconds
            result[boundary + 1] += seconds
    return result


def _ends(device_of: tuple[int, ...], own: int, using: Iterable[int]) -> list[int]:
    """The device that makes a tensor and each other one that uses it, by their first stages; none when no other does."""
    others = {device_of[stage] for stage in using} - {device_of[own]}
    return (
        [device_of.index(device) for device in (device_of[own], *sorted(others))] if others else []
    )


def moved_bytes(problem: Problem, stages: list[int]) -> float:
    """Bytes between devices a microbatch, activations and gradients."""
    total = 0.0
    for tensor in problem.tensors:
        own, using = stages[tensor.source], {stages[c] for c in tensor.consumers}
        if problem.comm == "direct":
            times = max(0, len(_ends(problem.device_of, own, using)) - 1)
        else:
            times = max(own, *using) - min(own, *using)
        total += times * (tensor.forward_bytes + tensor.backward_bytes)
    return total


def bottleneck(problem: Problem, stages: list[int]) -> float:
    """Seconds of the slowest device."""
    return max(by_device(problem, loads(problem, stages)).values())


def by_device(problem: Problem, amounts: list[float]) -> dict[int, float]:
    """Sums of an amount of each stage over the stages of a device."""
    result = dict.fromkeys(problem.device_of, 0.0)
    for device, amount in zip(problem.device_of, amounts, strict=True):
        result[device] += amount
    return result


@dataclass(frozen=True)
class StageBytes:
    """Bytes of a stage: parameters with gradients and states, saved and received a microbatch, the largest transient."""

    fixed: int
    saved: float
    received: float
    transient: int

    def peak(self, slot: StageDevice, recompute: bool) -> float:
        """Bytes at the peak of a step, without the reserve."""
        return (
            self.fixed
            + slot.saving(recompute) * self.saved
            + slot.in_flight * self.received
            + self.transient
        )


def usage(problem: Problem, stages: list[int]) -> list[StageBytes]:
    """What each stage holds."""
    count = len(problem.stage_devices)
    saved, received, transient, fixed = [0.0] * count, [0.0] * count, [0] * count, [0] * count
    for block, stage in zip(problem.blocks, stages, strict=True):
        saved[stage] += block.saved_bytes
        transient[stage] = max(transient[stage], block.transient_bytes)
    for tensor in problem.tensors:
        own, using = stages[tensor.source], {stages[c] for c in tensor.consumers}
        relayed = {*range(own + 1, max(own, *using) + 1), *range(min(own, *using), own)}
        for stage in (
            _ends(problem.device_of, own, using)[1:] if problem.comm == "direct" else relayed
        ):
            received[stage] += tensor.forward_bytes
    for shared in problem.shared:
        for stage in {stages[user] for user in shared.users}:
            fixed[stage] += shared.bytes
            saved[stage] += shared.saved_bytes
    return [StageBytes(*row) for row in zip(fixed, saved, received, transient, strict=True)]


def memory(problem: Problem, stages: list[int]) -> list[int]:
    """Peak bytes of each stage, without the reserve."""
    again = recomputed(problem, stages)
    return [
        round(u.peak(s, r))
        for u, s, r in zip(usage(problem, stages), problem.stage_devices, again, strict=True)
    ]


def recomputed(problem: Problem, stages: list[int]) -> list[bool]:
    """Which stages recompute: those of devices that do not fit otherwise, or all, as the problem says."""
    if problem.recompute != "auto":
        return [problem.recompute == "always"] * len(problem.stage_devices)
    peaks = device_bytes(problem, stages, recompute=False)
    capacity = dict(
        zip(problem.device_of, (slot.capacity for slot in problem.stage_devices), strict=True)
    )
    return [peaks[device] > capacity[device] for device in problem.device_of]


def device_bytes(problem: Problem, stages: list[int], recompute: bool) -> dict[int, float]:
    """Peak bytes of each device: its stages at once, of their transients the largest."""
    used = usage(problem, stages)
    peaks = [
        u.peak(slot, recompute) - u.transient
        for u, slot in zip(used, problem.stage_devices, strict=True)
    ]
    result = by_device(problem, peaks)
    for device in result:
        result[device] += max(
            u.transient for u, d in zip(used, problem.device_of, strict=True) if d == device
        )
    return result


def evenly_shared(problem: Problem) -> Problem:
    """Each stage on its own device, which has its share of the memory of the device that stages are on together."""
    count = Counter(problem.device_of)
    shares = [count[device] for device in problem.device_of]
    stage_devices = tuple(
        replace(slot, capacity=slot.capacity // share)
        for slot, share in zip(problem.stage_devices, shares, strict=True)
    )
    return replace(problem, stage_devices=stage_devices, devices=())


def recompute_choices(problem: Problem) -> tuple[bool, ...]:
    """Whether a stage may recompute: not, must, or either."""
    return {"never": (False,), "always": (True,), "auto": (False, True)}[problem.recompute]


def parameters_of_blocks(problem: Problem) -> list[list[int]]:
    """For each block the indices of the parameters it uses."""
    result: list[list[int]] = [[] for _ in problem.blocks]
    for index, shared in enumerate(problem.shared):
        for user in shared.users:
            result[user].append(index)
    return result


def fits(problem: Problem, stages: list[int]) -> bool:
    """Whether every device keeps within its capacity, and every block where it was told to be."""
    obeyed = all(stages[v] == s for v, s in problem.pins) and all(
        stages[u] < stages[v] for u, v in problem.splits
    )
    least = device_bytes(problem, stages, recompute=problem.recompute != "never")
    return obeyed and all(
        least[d] <= slot.capacity
        for d, slot in zip(problem.device_of, problem.stage_devices, strict=True)
    )


def contract(problem: Problem, members: list[list[int]]) -> Problem:
    """Groups of blocks as one block each. `members` must stand in a topological order of the groups."""
    group_of = {block: at for at, group in enumerate(members) for block in group}
    kinds = sorted({slot.kind for slot in problem.stage_devices})
    blocks = tuple(
        Block(
            tuple(sorted(i for v in group for i in problem.blocks[v].operators)),
            {kind: sum(problem.blocks[v].seconds[kind] for v in group) for kind in kinds},
            sum(problem.blocks[v].saved_bytes for v in group),
            max(problem.blocks[v].transient_bytes for v in group),
            {kind: sum(problem.blocks[v].forward.get(kind, 0.0) for v in group) for kind in kinds},
        )
        for group in members
    )
    tensors = tuple(
        replace(c, source=group_of[c.source], consumers=using)
        for c in problem.tensors
        if (using := tuple(sorted({group_of[v] for v in c.consumers} - {group_of[c.source]})))
    )
    edges = frozenset(
        (group_of[u], group_of[v]) for u, v in problem.edges if group_of[u] != group_of[v]
    )
    shared = tuple(
        replace(s, users=tuple(sorted({group_of[v] for v in s.users}))) for s in problem.shared
    )
    return replace(
        problem,
        blocks=blocks,
        edges=edges,
        tensors=merge_tensors(tensors),
        shared=shared,
        pins=tuple(sorted({(group_of[v], s) for v, s in problem.pins})),
        splits=tuple(sorted({(group_of[u], group_of[v]) for u, v in problem.splits})),
    )


def merge_tensors(tensors: tuple[TensorUse, ...]) -> tuple[TensorUse, ...]:
    """Tensors with the same source and consumers as one: they always cross together."""
    merged: dict[tuple[int, tuple[int, ...]], TensorUse] = {}
    for c in tensors:
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
