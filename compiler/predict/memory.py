"""Replay a draft's memory: what each stage's passes take, and the peak of each rank's tensors."""

from collections.abc import Hashable, Sequence

from pipecut.compiler.costs.work import identity
from pipecut.compiler.graph import Graph
from pipecut.compiler.predict.dry_run import stage_memory
from pipecut.compiler.predict.known_calls import KnownCalls
from pipecut.compiler.predict.step import Scheduled
from pipecut.compiler.stages.cut import Cut
from pipecut.plan.actions import splits_backward
from pipecut.plan.replay.memory import outside_bytes, peak_of
from pipecut.plan.schema import Plan, Stage, StageMemory

UPPER_BOUND = "memory: an upper bound, since an operator cannot run on fake tensors"


def replay(plan: Plan, graph: Graph, scheduled: Scheduled, code: Sequence[str]) -> Plan:
    """The plan with what each stage's passes take, and the peak of its rank under the schedule."""
    split_backward = any(splits_backward(row) for row in scheduled.actions)
    passes = passes_of(plan, graph, scheduled.cuts, code, split_backward)
    stages = [
        stage.model_copy(update={"passes": memory})
        for stage, memory in zip(plan.stages, passes, strict=True)
    ]
    plan = plan.model_copy(update={"stages": stages})
    stages = [_with_peak(plan, stage, scheduled) for stage in plan.stages]
    notes = [*plan.notes, *([UPPER_BOUND] if None in passes else [])]
    return plan.model_copy(update={"stages": stages, "notes": notes})


def _with_peak(plan: Plan, stage: Stage, scheduled: Scheduled) -> Stage:
    rank = stage.pipeline_rank
    return stage.model_copy(
        update={
            "peak_bytes": peak_of(plan, scheduled.actions[rank], rank),
            "outside_bytes": outside_bytes(plan, rank),
        }
    )


def passes_of(
    plan: Plan,
    graph: Graph,
    cuts: Sequence[Cut],
    code: Sequence[str],
    split_backward: bool = False,
) -> list[StageMemory | None]:
    """What a microbatch takes on each stage; None where an operator has no fake kernel.

    `code` has the source of each stage.

    Stages that are alike are run once.
    """
    sizes = graph.sizes(plan.batch.microbatch)
    endless = (sizes[name] for name, size in graph.data_sizes.items() if not size.bounded)
    known = KnownCalls(max(endless, default=None))
    memory_of: dict[Hashable, StageMemory | None] = {}
    passes = []
    for cut, source in zip(cuts, code, strict=True):
        key = _fingerprint(plan, graph, cut)
        if key not in memory_of:
            try:
                memory_of[key] = stage_memory(plan, graph, cut, source, split_backward, known)
            except Exception:
                # Operators without a fake kernel raise as they like.
                memory_of[key] = None
        passes.append(memory_of[key])
    return passes


def _fingerprint(plan: Plan, graph: Graph, cut: Cut) -> Hashable:
    """What the memory of a stage depends on: its operators with all sizes.

    Values go by their position among the stage's own, so that equal layers have equal fingerprints.
    """
    position: dict[str, int] = {}

    def described(name: str) -> Hashable:
        value, number = graph.values.get(name), position.setdefault(name, len(position))
        if value is None:
            return number
        return number, value.sizes, value.strides, value.dtype, value.needs_grad

    # True and False tell parameters by whether they are trained; None stands for a buffer.
    kind_of: dict[str, bool | None] = {p.value: p.trainable for p in cut.parameters}
    kind_of |= {buffer.value: None for buffer in cut.buffers}
    operators = []
    for index in cut.operators:
        operator = graph.operators[index]
        inputs = tuple((described(name), kind_of.get(name)) for name in operator.inputs)
        operators.append((identity(operator, graph), inputs, described(operator.name)))
    crossing = tuple(
        tuple(map(described, names)) for names in (cut.receives, cut.batch_inputs, cut.sends)
    )
    stage, last = plan.stages[cut.index], cut.index == len(plan.stages) - 1
    return tuple(operators), crossing, stage.recompute, last
