"""Replay a rank's actions for its memory: what is alive after each of them, and at the peak within."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pipecut.device.types import type_of
from pipecut.plan.actions import Action, Compute, Hop, Message, Recv, Reduce, Send
from pipecut.plan.channels import groups_of
from pipecut.plan.communicators import buffer_bytes
from pipecut.plan.folder import PlanFolder
from pipecut.plan.layout import Place
from pipecut.plan.replay.simulate import Timeline
from pipecut.plan.rows import divided, padded_rows
from pipecut.plan.schema import HALF, Plan, Stage, StageMemory, StageTensor

# Messages of a kind on their way at once: the other side posts its receive a compute ahead, so
# the message before the last has left.
MOST_LEAVING = 2

# Values of a parameter's size that the optimizer keeps.
STATES = {"adamw": 2, "adam": 2, "momentum": 1, "sgd": 0}


@dataclass(frozen=True)
class Moment:
    """Bytes on a rank at the peak of an action, and after it."""

    action: Action
    peak: int
    after: int


def kept_bytes(held: StageTensor, optimizer: str, shards: int) -> int:
    """Bytes of a parameter or buffer with its master and the optimizer's states, which may be divided over so many replicas.

    Of the replica that has most of it. A float32 master, and its states, where the parameter is of half precision.
    """
    stepped = held.gradient_bytes
    if divided(held.shape, shards):
        stepped = stepped // held.shape[0] * -(-held.shape[0] // shards)
    return held.bytes + stepped * (STATES[optimizer] + (held.dtype in HALF))


def padded_bytes(held: StageTensor, shards: int) -> int:
    """Bytes beside a parameter while its rows come from all replicas: none where all have as many."""
    if not (held.trainable and divided(held.shape, shards)) or held.shape[0] % shards == 0:
        return 0
    return held.bytes // held.shape[0] * padded_rows(held.shape, shards) * shards


def moments(plan: Plan, actions: Sequence[Action], pipeline_rank: int) -> list[Moment] | None:
    """The memory curve of a pipeline rank, from its second step on; None without stages' `passes`.

    A step begins with parameters, buffers, optimizer states and the batch. Gradients come with a
    stage's first backward.
    """
    stages = {s.index: s for s in plan.stages if s.pipeline_rank == pipeline_rank}
    if any(s.passes is None for s in stages.values()):
        return None
    replay = _Replay(plan, stages)
    curve = []
    for action in actions:
        peak = replay.do(action)
        curve.append(Moment(action, max(peak, replay.level), replay.level))
    if curve:
        first = curve[0]
        curve[0] = Moment(first.action, max(first.peak, replay.gathering), first.after)
    return curve


class _Replay:
    """Bytes alive on a rank, action by action."""

    def __init__(self, plan: Plan, stages: Mapping[int, Stage]) -> None:
        self.plan, self.stages = plan, stages
        held = {h.names[0]: h for s in stages.values() for h in (*s.parameters, *s.buffers)}
        needed = {name for s in stages.values() for name in s.batch_inputs}
        self.level = sum(kept_bytes(h, plan.optimizer, plan.shards) for h in held.values())
        self.level += sum(plan.batch_bytes(t) for t in plan.inputs if t.name in needed)
        # Before the step, rows that other replicas have stepped are brought to this rank.
        padded = max((padded_bytes(h, plan.shards) for h in held.values()), default=0)
        self.gathering = self.level + padded
        self.backward_begun: set[int] = set()
        self.weights_begun: set[int] = set()
        self.with_gradient: set[str] = set()
        # Bytes that are alive only for a message on its way, or handed over on this rank.
        self.leaving: dict[Message, int] = {}

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
            self.level += passes.gradients
        if action.op == "I":
            self.level += passes.weights_kept
        elif first:
            self.level -= self._counted_twice(s)
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
            self.level += passes.weights_gradients - self._counted_twice(action.stage)
        return peak

    def _send(self, message: Message) -> int:
        peak = self.level
        earlier = [m for m in self.leaving if m.hop == message.hop and m != message]
        for left in earlier[: max(0, len(earlier) - MOST_LEAVING)]:
            self._let_go(left)
        return peak

    def _let_go(self, message: Message) -> None:
        self.level -= self.leaving.pop(message, 0)

    def _bytes(self, hop: Hop) -> int:
        """Bytes of a microbatch's message."""
        boundary = next((b for b in self.plan.boundaries if b.left == hop.boundary), None)
        tensors = boundary.tensors if boundary else []
        carried = [t for t in tensors if hop.direction == "F" or t.needs_grad]
        return sum(t.bytes_for(self.plan.batch.microbatch) for t in carried)

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
    """Bytes beside the gradients while those of tied parameters are summed.

    Two ranks sum them in place.
    """
    most = 0
    for tied in plan.tied:
        ranks = {plan.layout.pipeline_rank_of[s] for s in tied.stages}
        if len(ranks) > 2 and set(stages) & set(tied.stages):
            stage = next(s for s in plan.stages if s.index in tied.stages)
            size = next(h.gradient_bytes for h in stage.parameters if h.names == tied.names)
            most = max(most, (len(ranks) + 1) * size)
    return most


def outside_bytes(plan: Plan, pipeline_rank: int) -> int:
    """Bytes of a GPU that no tensor can have: its context and the communicators of the rank at a place. 0 on a CPU."""
    stage = next(stage for stage in plan.stages if stage.pipeline_rank == pipeline_rank)
    kind = type_of(stage.device_type)
    if not kind.uses_nccl:
        return kind.context_bytes
    rank = plan.layout.rank(Place(pipeline_rank))
    return kind.context_bytes + sum(
        buffer_bytes(group.kind, group.ranks, rank) for group in groups_of(plan)
    )


def memory_curves(folder: PlanFolder, timeline: Timeline) -> list[list[tuple[float, int]]]:
    """Of each rank of a pipeline: seconds and bytes, the peak of each action where it begins and what is left where it ends.

    Empty where a stage's passes are not known.
    """
    curves = []
    for pipeline_rank, actions in enumerate(folder.actions):
        when = {e.action: (e.start, e.end) for e in timeline.events if e.rank == pipeline_rank}
        found = [
            (when[m.action], m)
            for m in moments(folder.plan, actions, pipeline_rank) or []
            if m.action in when
        ]
        curves.append(
            [point for (start, end), m in found for point in ((start, m.peak), (end, m.after))]
        )
    return curves


def peak_of(plan: Plan, actions: Sequence[Action], pipeline_rank: int) -> int:
    """Bytes at the peak of a step on the rank at that place; an upper bound where the stage's passes are not known."""
    curve = moments(plan, actions, pipeline_rank)
    if curve is None:
        return sum(
            s.memory_bytes + s.buffer_bytes for s in plan.stages if s.pipeline_rank == pipeline_rank
        )
    return max(moment.peak for moment in curve)
