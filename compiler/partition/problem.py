"""What the partitioner receives and returns, free of any model."""

from dataclasses import dataclass, field
from typing import Literal

from pipecut.quantities import show_bytes, show_seconds
from pipecut.text_table import numbers, text_table

Comm = Literal["relay", "direct"]
Recompute = Literal["auto", "never", "always"]
# Stage of each block, by the block's index.
Stages = list[int]
# Indices of the blocks of a larger problem that each block of a smaller one stands for.
Members = list[list[int]]


@dataclass(frozen=True)
class Block:
    """Operators that stay on one stage. Bytes, and seconds by kind of device, for one microbatch.

    `seconds` are those of forward and backward together; `forward_seconds` those of forward,
    which recomputing adds.
    """

    operators: tuple[int, ...]
    seconds: dict[str, float]
    saved_bytes: int
    transient_bytes: int
    forward_seconds: dict[str, float] = field(default_factory=dict)

    def seconds_on(self, kind: str, recompute: bool) -> float:
        """Seconds on a kind of device, of a stage that recomputes or does not."""
        return self.seconds[kind] + (self.forward_seconds.get(kind, 0.0) if recompute else 0.0)


@dataclass(frozen=True)
class TensorUse:
    """A tensor that one block makes and other blocks use. Bytes and messages per microbatch."""

    name: str
    source: int
    consumers: tuple[int, ...]
    forward_bytes: float
    backward_bytes: float
    messages: int

    @property
    def blocks(self) -> tuple[int, ...]:
        """Its source and its consumers."""
        return self.source, *self.consumers

    @property
    def both_ways_bytes(self) -> float:
        """Bytes of the activation and of its gradient."""
        return self.forward_bytes + self.backward_bytes


@dataclass(frozen=True)
class SharedParameter:
    """Something that every stage holds on which one of its users stands.

    A parameter: its bytes with gradient and optimizer states. Or a result that depends on no input
    of the batch and is computed on each stage that uses it: seconds and saved bytes, as of a block.
    """

    name: str
    bytes: int
    users: tuple[int, ...]
    seconds: dict[str, float] = field(default_factory=dict)
    forward_seconds: dict[str, float] = field(default_factory=dict)
    saved_bytes: int = 0

    def seconds_on(self, kind: str, recompute: bool) -> float:
        """Seconds on a kind of device, of a stage that recomputes or does not."""
        forward = self.forward_seconds.get(kind, 0.0) if recompute else 0.0
        return self.seconds.get(kind, 0.0) + forward

    def bytes_with(self, saved_microbatches: int) -> int:
        """Its bytes, with what is saved for a number of microbatches."""
        return self.bytes + saved_microbatches * self.saved_bytes


@dataclass(frozen=True)
class StageDevice:
    """The device of one stage: its kind, its bytes less the reserve, its link to the next stage.

    `in_flight` is the number of microbatches whose activations the stage holds at once. `bandwidth`
    in bytes per second, `latency` in seconds.
    """

    kind: str
    capacity: int
    in_flight: int
    bandwidth: float
    latency: float

    def saved_microbatches(self, recompute: bool) -> int:
        """Microbatches whose saved activations are held at once: one where the stage recomputes."""
        return min(1, self.in_flight) if recompute else self.in_flight


@dataclass(frozen=True)
class Duplicated:
    """An operator that is in no block: each stage on which one of its users stands runs it."""

    operator: int
    users: tuple[int, ...]


@dataclass(frozen=True)
class Problem:
    """Blocks, in a topological order, to be put on stages.

    `edges`       block u stands on no later stage than block v
    `comm`        what a tensor costs. `relay`: it passes through every stage between, and both
                  sides of each boundary pay. `direct`: it costs once on the stage that makes it and
                  once on each other stage that uses it. A consumer may stand before the source, as
                  that of a backward operator does; only `edges` say what comes first.
    `pins`        pairs of a block and its stage
    `splits`      pairs of blocks of which the first stands on an earlier stage
    `recompute`   with `auto`, a device whose saved activations do not fit keeps only what its
                  stages receive, and runs their forward again before each backward
    `devices`     the device of each stage; empty when each stage has a device of its own. A
                  device's load is the sum of its stages'; with direct transfers nothing moves
                  between stages of one device.
    `duplicated`  the operators that are in no block
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
    duplicated: tuple[Duplicated, ...] = ()

    @property
    def device_of(self) -> tuple[int, ...]:
        """The device of each stage."""
        return self.devices or tuple(range(len(self.stage_devices)))

    @property
    def kinds(self) -> list[str]:
        """The kinds of device, sorted."""
        return sorted({device.kind for device in self.stage_devices})

    @property
    def recompute_choices(self) -> tuple[bool, ...]:
        """Whether a stage may recompute: never, always, or either; the quicker choice first."""
        return {"never": (False,), "always": (True,), "auto": (False, True)}[self.recompute]

    def stages_of_devices(self) -> dict[int, list[int]]:
        """Device -> its stages."""
        device_of = self.device_of
        stages: dict[int, list[int]] = {device: [] for device in sorted(set(device_of))}
        for stage, device in enumerate(device_of):
            stages[device].append(stage)
        return stages

    def shared_by_block(self) -> list[list[int]]:
        """For each block, the indices of what it shares with others."""
        result: list[list[int]] = [[] for _ in self.blocks]
        for index, shared in enumerate(self.shared):
            for user in shared.users:
                result[user].append(index)
        return result

    def __str__(self) -> str:
        """Tables of the stages' devices, the blocks, their tensors and what they share."""
        tables = [_devices_table(self), _blocks_table(self), _tensors_table(self)]
        tables += [_shared_table(self)] if self.shared else []
        return "\n\n".join([*tables, *_rules(self)])


def _devices_table(problem: Problem) -> str:
    rows = [
        (
            str(stage),
            f"{device} ({row.kind})",
            show_bytes(row.capacity),
            str(row.in_flight),
            f"{show_bytes(row.bandwidth)}/s",
            show_seconds(row.latency),
        )
        for stage, (device, row) in enumerate(
            zip(problem.device_of, problem.stage_devices, strict=True)
        )
    ]
    return text_table(("stage", "device", "capacity", "in flight", "link", "latency"), rows)


def _blocks_table(problem: Problem) -> str:
    needs: dict[int, list[int]] = {}
    for source, block in problem.edges:
        needs.setdefault(block, []).append(source)
    rows = [
        (
            str(index),
            numbers(block.operators),
            numbers(needs.get(index, ())),
            *(show_seconds(block.seconds[kind]) for kind in problem.kinds),
            show_bytes(block.saved_bytes),
            show_bytes(block.transient_bytes),
        )
        for index, block in enumerate(problem.blocks)
    ]
    return text_table(("block", "operators", "after", *problem.kinds, "saved", "transient"), rows)


def _tensors_table(problem: Problem) -> str:
    rows = [
        (
            tensor.name,
            str(tensor.source),
            numbers(tensor.consumers),
            show_bytes(tensor.forward_bytes),
            show_bytes(tensor.backward_bytes),
            str(tensor.messages),
        )
        for tensor in problem.tensors
    ]
    return text_table(("tensor", "from", "to", "forward", "backward", "messages"), rows)


def _shared_table(problem: Problem) -> str:
    rows = [
        (
            shared.name,
            numbers(shared.users),
            show_bytes(shared.bytes),
            *(show_seconds(shared.seconds.get(kind, 0.0)) for kind in problem.kinds),
            show_bytes(shared.saved_bytes),
        )
        for shared in problem.shared
    ]
    return text_table(("shared", "used by", "bytes", *problem.kinds, "saved"), rows)


def _rules(problem: Problem) -> list[str]:
    lines = [f"transfers: {problem.comm}; recompute: {problem.recompute}"]
    lines += [f"block {block} stands on stage {stage}" for block, stage in problem.pins]
    lines += [f"a cut lies between blocks {first} and {last}" for first, last in problem.splits]
    lines += [
        f"operator {row.operator} runs on every stage with one of blocks {numbers(row.users)}"
        for row in problem.duplicated
    ]
    return ["\n".join(lines)]
