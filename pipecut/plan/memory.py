"""Replay a rank's actions for its memory: what is alive after each of them, and at the peak within."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pipecut.plan.channels import groups_of
from pipecut.plan.communicators import CONTEXT_BYTES, buffer_bytes
from pipecut.plan.folder import PlanFolder
from pipecut.plan.rows import divided, padded_rows
from pipecut.plan.schema import HALF, Action, Plan, Stage, StageTensor
from pipecut.plan.simulate import Timeline

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
    """The curve of the rank at a place in the pipeline, from its second step on; None where a stage's passes are not known.

    A step begins with parameters, buffers, optimizer states and the batch. Gradients come with a stage's first backward.
    """
    stages = {s.index: s for s in plan.stages if s.pipeline_rank == pipeline_rank}
    if any(s.passes is None for s in stages.values()):
        return None
    held = {h.names[0]: h for s in stages.values() for h in (*s.parameters, *s.buffers)}
    level = sum(kept_bytes(h, plan.optimizer, plan.shards) for h in held.values())
    needed = {name for s in stages.values() for name in s.batch_inputs}
    level += sum(plan.batch_bytes(t) for t in plan.inputs if t.name in needed)
    # Before the step, rows that other replicas have stepped are brought here.
    gathering = level + max((padded_bytes(h, plan.shards) for h in held.values()), default=0)
    begun: set[int] = set()
    weighed: set[int] = set()
    # Parameters that have a gradient.
    known: set[str] = set()
    # Bytes alive for what is on its way alone, by direction, stage and microbatch.
    leaving: dict[tuple[str, int, int], int] = {}
    found: list[Moment] = []
    for action in actions:
        peak = level
        stage = stages[action.stage]
        passes = stage.passes
        assert passes is not None
        if action.kind.startswith("RECV"):
            # What a stage of this rank hands over is alive already.
            level += _crossing(plan, stage, action.kind[-1], receiving=True)
        elif action.kind == "F":
            peak, level = level + passes.forward_peak, level + passes.kept
            leaving["F", action.stage, action.microbatch] = passes.kept - passes.saved
        elif action.kind in ("B", "I"):
            s, m = action.stage, action.microbatch
            # Its gradient is here, so what was sent is let go; what was handed over goes when the other stage is done with it.
            level -= leaving.pop(("F", s, m), 0) if s + 1 not in stages else 0
            first = s not in begun
            peak = (
                level
                - passes.saved
                + (passes.first_backward_peak if first else passes.backward_peak)
            )
            received = sum(
                _crossing(plan, stage, way, receiving=True)
                for way in "FB"
                if _arrives(stage, way, stages)
            )
            returned = _crossing(plan, stage, "B", receiving=False)
            level += returned + (passes.gradients if first else 0) - passes.saved - received
            level += passes.weights_kept if action.kind == "I" else 0
            level -= leaving.pop(("F", s - 1, m), 0) if s - 1 in stages else 0
            level -= leaving.pop(("B", s + 1, m), 0) if s + 1 in stages else 0
            level -= _known(stage, known) if first and action.kind == "B" else 0
            begun.add(s)
            leaving["B", s, m] = returned
        elif action.kind == "W":
            first = action.stage not in weighed
            peak = level + (passes.weights_first_peak if first else passes.weights_peak)
            level += (passes.weights_gradients if first else 0) - passes.weights_kept
            level -= _known(stage, known) if first else 0
            weighed.add(action.stage)
        elif action.kind.startswith("SEND"):
            kind = action.kind[-1], action.stage
            before = [key for key in leaving if key[:2] == kind and key[2] != action.microbatch]
            for key in before[: max(0, len(before) - MOST_LEAVING)]:
                level -= leaving.pop(key)
        elif action.kind == "REDUCE":
            peak = level + _summing(plan, list(stages))
        found.append(Moment(action, max(peak, level, 0 if found else gathering), level))
    return found


def _arrives(stage: Stage, way: str, here: Collection[int]) -> bool:
    """Whether what a stage is given, activations (F) or gradients (B), is of another rank."""
    return stage.index + (-1 if way == "F" else 1) not in here


def _known(stage: Stage, known: set[str]) -> int:
    """Bytes of the gradients of a stage's parameters that other stages of the rank brought into being; notes its own."""
    own = {h.names[0]: h.gradient_bytes for h in stage.parameters if h.trainable}
    twice = sum(size for name, size in own.items() if name in known)
    known |= set(own)
    return twice


def _crossing(plan: Plan, stage: Stage, kind: str, receiving: bool) -> int:
    """Bytes of a microbatch's activations (F) or gradients (B) that a stage receives, or sends."""
    left = stage.index - 1 if (kind == "F") == receiving else stage.index
    boundary = next((b for b in plan.boundaries if b.left == left), None)
    tensors = boundary.tensors if boundary else []
    return sum(t.bytes_for(plan.batch.microbatch) for t in tensors if kind == "F" or t.needs_grad)


def _summing(plan: Plan, own: list[int]) -> int:
    """Bytes beside the gradients while those of tied parameters are summed; of two ranks they are summed in place."""
    most = 0
    for tied in plan.tied:
        ranks = {plan.pipeline_rank_of[s] for s in tied.stages}
        if len(ranks) > 2 and set(own) & set(tied.stages):
            stage = next(s for s in plan.stages if s.index in tied.stages)
            size = next(h.gradient_bytes for h in stage.parameters if h.names == tied.names)
            most = max(most, (len(ranks) + 1) * size)
    return most


def outside_bytes(plan: Plan, pipeline_rank: int) -> int:
    """Bytes of a GPU that no tensor can have: its context and the communicators of the rank at a place. 0 on a CPU."""
    stage = next(stage for stage in plan.stages if stage.pipeline_rank == pipeline_rank)
    if stage.device_type != "cuda":
        return 0
    rank = pipeline_rank * plan.replicas
    return CONTEXT_BYTES + sum(
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
