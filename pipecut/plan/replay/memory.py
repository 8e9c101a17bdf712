"""Replay a rank's actions for its memory: bytes alive after each of them, and at its peak."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pipecut.device.types import type_of
from pipecut.plan.actions import Action, Compute, Direction, Hop, Message, Recv, Reduce, Send
from pipecut.plan.channels import groups_with
from pipecut.plan.communicators import buffer_bytes
from pipecut.plan.folder import PlanFolder
from pipecut.plan.layout import Place
from pipecut.plan.replay.simulate import Timeline
from pipecut.plan.rows import divided, padded_rows
from pipecut.plan.schema import HALF, Optimizer, Plan, Stage, StageMemory, StageTensor

# Messages of a kind on their way at once: the other side posts its receive a compute ahead, so
# the message before the last has left.
MOST_LEAVING = 2


@dataclass(frozen=True)
class Moment:
    """Bytes on a rank at the peak of an action, and after it; of these, those of gradients."""

    action: Action
    peak: int
    after: int
    gradients: int


@dataclass(frozen=True)
class Standing:
    """Bytes that a rank has all through a step.

    `parameters` with the buffers, `optimizer` with the float32 masters, `batch` with all samples of
    the inputs that its stages read.
    """

    parameters: int
    optimizer: int
    batch: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.parameters + self.optimizer + self.batch


@dataclass(frozen=True)
class MemoryCurve:
    """A step's memory on a rank, action by action, above what is `standing` before the first."""

    moments: tuple[Moment, ...]
    standing: Standing

    @property
    def peak(self) -> int:
        """Bytes at the most."""
        return max(moment.peak for moment in self.moments)

    def __str__(self) -> str:
        lines = [f"{'peak':>14} {'after':>14}  action"]
        for moment in self.moments:
            mark = "  <- peak of the step" if moment.peak == self.peak else ""
            lines.append(f"{moment.peak:14,} {moment.after:14,}  {moment.action}{mark}")
        return "\n".join(lines)


def kept_bytes(tensor: StageTensor, optimizer: Optimizer, shards: int) -> int:
    """Bytes of a parameter or buffer with its master and optimizer states, on one replica.

    A parameter of half precision has a float32 master, and float32 states. Where master and states
    are divided over `shards` replicas, those of the replica that has most of the rows.
    """
    stepped = tensor.gradient_bytes
    if divided(tensor.shape, shards):
        stepped = stepped // tensor.shape[0] * padded_rows(tensor.shape, shards)
    states = optimizer.state_bytes(tensor.shape, stepped)
    return tensor.bytes + states + stepped * (tensor.dtype in HALF)


def padded_bytes(tensor: StageTensor, shards: int) -> int:
    """Bytes beside a parameter while its rows come from all replicas; 0 where all have as many."""
    rows = tensor.shape[0] if tensor.shape else 0
    if not (tensor.trainable and divided(tensor.shape, shards)) or rows % shards == 0:
        return 0
    return tensor.bytes // rows * padded_rows(tensor.shape, shards) * shards


def memory_curve(plan: Plan, actions: Sequence[Action], pipeline_rank: int) -> MemoryCurve | None:
    """The memory of a pipeline rank, from its second step on; None without the stages' `passes`.

    A step begins with parameters, buffers, optimizer states and the batch. Gradients come with a
    stage's first backward.
    """
    stages = {s.index: s for s in plan.stages if s.pipeline_rank == pipeline_rank}
    if any(s.passes is None for s in stages.values()):
        return None
    replay = _Replay(plan, stages)
    moments: list[Moment] = []
    for action in actions:
        # Before the step, rows that other replicas have stepped are brought to this rank.
        before = replay.gathering if not moments else 0
        peak = replay.do(action)
        peak = max(peak, replay.level, before)
        moments.append(Moment(action, peak, replay.level, replay.gradients))
    return MemoryCurve(tuple(moments), replay.standing)


class _Replay:
    """Bytes alive on a rank, action by action."""

    def __init__(self, plan: Plan, stages: Mapping[int, Stage]) -> None:
        self.plan, self.stages = plan, stages
        # A tensor that several stages of the rank share is there once.
        tensors = {t.names[0]: t for s in stages.values() for t in (*s.parameters, *s.buffers)}
        inputs = {name for s in stages.values() for name in s.batch_inputs}
        kept = sum(kept_bytes(t, plan.optimizer, plan.shards) for t in tensors.values())
        parameters = sum(t.bytes for t in tensors.values())
        batch = sum(plan.batch_bytes(t) for t in plan.inputs if t.name in inputs)
        self.standing = Standing(parameters, kept - parameters, batch)
        self.level, self.gradients = self.standing.total, 0
        padded = max((padded_bytes(t, plan.shards) for t in tensors.values()), default=0)
        self.gathering = self.level + padded
        self.backward_begun: set[int] = set()
        self.weights_begun: set[int] = set()
        self.with_gradient: set[str] = set()
        # Bytes that are alive only for a message on its way, or handed over on this rank.
        self.leaving: dict[Message, int] = {}
        # Bytes of a message, by its direction and receiver.
        self.message_bytes: dict[tuple[Direction, int], int] = {}

    def do(self, action: Action) -> int:
        """Replay an action: `level` is what is alive after it; the peak within it is returned."""
        match action:
            case Recv(message):
                # What a stage of this rank hands over is alive already.
                self.level += self._bytes(message.hop)
                return self.level
            case Send(message):
                return self._send(message)
            case Compute("F"):
                return self._forward(action)
            case Compute("B" | "I"):
                return self._backward(action)
            case Compute():
                return self._weights(action)
            case Reduce():
                return self.level + _summing(self.plan, self.stages)

    def _passes(self, stage: int) -> StageMemory:
        passes = self.stages[stage].passes
        assert passes is not None
        return passes

    def _forward(self, action: Compute) -> int:
        passes = self._passes(action.stage)
        peak = self.level + passes.forward_peak
        self.level += passes.kept
        self.leaving[Message("F", action.stage + 1, action.microbatch)] = passes.kept - passes.saved
        return peak

    def _backward(self, action: Compute) -> int:
        s, m, passes = action.stage, action.microbatch, self._passes(action.stage)
        if s + 1 not in self.stages:
            # Its gradient has arrived, so the activations that were sent are let go.
            self._let_go(Message("F", s + 1, m))
        first = s not in self.backward_begun
        self.backward_begun.add(s)
        backward_peak = passes.first_backward_peak if first else passes.backward_peak
        peak = self.level - passes.saved + backward_peak
        returned = self._bytes(Hop("B", s - 1))
        self.level += returned - passes.saved - self._received(s)
        if first:
            self._add_gradients(passes.gradients)
        if action.op == "I":
            self.level += passes.weights_kept
        elif first:
            self._add_gradients(-self._counted_twice(s))
        # What other stages of this rank handed over, this stage is done with now.
        for hop in (Hop("F", s), Hop("B", s)):
            if hop.sender in self.stages:
                self._let_go(Message(hop.direction, s, m))
        self.leaving[Message("B", s - 1, m)] = returned
        return peak

    def _weights(self, action: Compute) -> int:
        passes = self._passes(action.stage)
        first = action.stage not in self.weights_begun
        self.weights_begun.add(action.stage)
        peak = self.level + (passes.weights_first_peak if first else passes.weights_peak)
        self.level -= passes.weights_kept
        if first:
            self._add_gradients(passes.weights_gradients - self._counted_twice(action.stage))
        return peak

    def _add_gradients(self, size: int) -> None:
        self.level += size
        self.gradients += size

    def _send(self, message: Message) -> int:
        peak = self.level
        hop = message.direction, message.receiver
        alike = (m for m in self.leaving if (m.direction, m.receiver) == hop)
        earlier = [m for m in alike if m.microbatch != message.microbatch]
        for gone in earlier[: max(0, len(earlier) - MOST_LEAVING)]:
            self._let_go(gone)
        return peak

    def _let_go(self, message: Message) -> None:
        self.level -= self.leaving.pop(message, 0)

    def _bytes(self, hop: Hop) -> int:
        """Bytes of a microbatch's message."""
        size = self.message_bytes.get((hop.direction, hop.receiver))
        if size is None:
            boundary = next((b for b in self.plan.boundaries if b.left == hop.boundary), None)
            tensors = boundary.tensors if boundary else []
            carried = [t for t in tensors if hop.direction == "F" or t.needs_grad]
            size = sum(t.bytes_for(self.plan.batch.largest) for t in carried)
            self.message_bytes[hop.direction, hop.receiver] = size
        return size

    def _received(self, stage: int) -> int:
        """Bytes of a microbatch that other ranks send to a stage."""
        hops = (Hop("F", stage), Hop("B", stage))
        return sum(self._bytes(hop) for hop in hops if hop.sender not in self.stages)

    def _counted_twice(self, stage: int) -> int:
        """Bytes of gradients that other stages of the rank have brought into being already."""
        trainable = [h for h in self.stages[stage].parameters if h.trainable]
        twice = sum(h.gradient_bytes for h in trainable if h.names[0] in self.with_gradient)
        self.with_gradient |= {h.names[0] for h in trainable}
        return twice


def _summing(plan: Plan, stages: Collection[int]) -> int:
    """Bytes beside the gradients while the largest gradient of a tied parameter is summed.

    Two ranks sum it in place; more gather those of all, and add them up in one more.
    """
    sizes = [0]
    for tied in plan.tied:
        ranks = {plan.layout.pipeline_rank_of[s] for s in tied.stages}
        if len(ranks) > 2 and set(stages) & set(tied.stages):
            stage = plan.stages[min(tied.stages)]
            size = next(t.gradient_bytes for t in stage.parameters if t.names == tied.names)
            sizes.append((len(ranks) + 1) * size)
    return max(sizes)


def outside_bytes(plan: Plan, pipeline_rank: int) -> int:
    """Bytes of a GPU that no tensor can have: its context and the rank's communicators.

    0 on a CPU.
    """
    rank = plan.layout.rank(Place(pipeline_rank))
    kind = type_of(plan.stages_on(rank)[0].device_type)
    if not kind.uses_nccl:
        return kind.context_bytes
    buffers = (buffer_bytes(group.kind, group.ranks, rank) for group in groups_with(plan, rank))
    return kind.context_bytes + sum(buffers)


@dataclass(frozen=True)
class MemoryPoint:
    """Bytes on a rank from a moment of the predicted step on."""

    seconds: float
    bytes: int


def memory_over_time(folder: PlanFolder, timeline: Timeline) -> list[list[MemoryPoint]]:
    """Each pipeline rank's memory: an action's peak from its start, what it leaves from its end.

    Empty where the stages' `passes` are missing.
    """
    points: list[list[MemoryPoint]] = []
    for pipeline_rank, actions in enumerate(folder.actions):
        events = {e.action: e for e in timeline.events if e.rank == pipeline_rank}
        curve = memory_curve(folder.plan, actions, pipeline_rank)
        points.append([])
        for moment in curve.moments if curve is not None else ():
            event = events.get(moment.action)
            if event is not None:
                points[-1].append(MemoryPoint(event.start, moment.peak))
                points[-1].append(MemoryPoint(event.end, moment.after))
    return points


def peak_of(plan: Plan, actions: Sequence[Action], pipeline_rank: int) -> int:
    """Bytes at the peak of a step on a pipeline rank.

    Without the stages' `passes` it is an upper bound: what the partitioner counts.
    """
    curve = memory_curve(plan, actions, pipeline_rank)
    if curve is None:
        stages = [s for s in plan.stages if s.pipeline_rank == pipeline_rank]
        return sum(s.memory_bytes + s.buffer_bytes for s in stages)
    return curve.peak
