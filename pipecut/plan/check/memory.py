"""No rank needs more memory than it has: by the partitioner's sums, and by the replay of a step.

The sums are of every stage: what it keeps, what its microbatches in flight save, and the largest
operator's own. The replay is that of plan/replay/memory.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipecut.errors import PlanError
from pipecut.plan.actions import Action, Compute
from pipecut.plan.check.more_samples import more_samples_fit
from pipecut.plan.replay.deadlock import Rows
from pipecut.plan.replay.memory import outside_bytes, peak_of
from pipecut.plan.schema import HALF, Plan, Stage, StageTensor
from pipecut.plan.schema.graph import PlanGraph

FEWER = (
    "let fewer forwards of the schedule come before its first backward, or compile with a smaller "
    "microbatch or for devices with more memory"
)
OTHER_MEMORY = (
    "after an edit of schedule.yaml pipecut seal predicts memory anew; if there was none, compile "
    "again"
)


@dataclass(frozen=True)
class _Need:
    """Bytes of a stage: alive between its operators, and taken while the largest one runs."""

    lasting: int
    transient: int

    @property
    def total(self) -> int:
        """Bytes at the most."""
        return self.lasting + self.transient


def memory_fits(plan: Plan, graph: PlanGraph, actions: Rows) -> str:
    """At every moment of a step, on every rank. Raises PlanError."""
    more_samples_fit(plan, graph)
    fullest = 0.0
    for pipeline_rank, row in enumerate(actions):
        fullest = max(fullest, rank_fits(plan, graph, pipeline_rank, row))
    return f"memory fits on every rank at every moment (at most {fullest:.0%} of capacity)"


def rank_fits(plan: Plan, graph: PlanGraph, pipeline_rank: int, row: Sequence[Action]) -> float:
    """`memory_fits` of one rank; the part of its capacity that is taken. Raises PlanError."""
    stages = [s for s in plan.stages if s.pipeline_rank == pipeline_rank]
    needs = [_need_of(plan, graph, stage, row) for stage in stages]
    for stage, need in zip(stages, needs, strict=True):
        _check_stage(stage, need)
    # Of the operators of all stages, one runs at a time.
    together = sum(need.lasting for need in needs) + max(need.transient for need in needs)
    capacity = min(stage.capacity_bytes for stage in stages)
    if together > capacity:
        raise PlanError(
            f"rank {pipeline_rank}: its stages need {together} bytes of {capacity}; {FEWER}"
        )
    _check_peak(plan, row, pipeline_rank)
    return together / max(capacity, 1)


def bytes_of_stage(plan: Plan, graph: PlanGraph, stage: Stage, row: Sequence[Action]) -> int:
    """Bytes that a stage needs under its rank's actions, as the partitioner adds them up."""
    return _need_of(plan, graph, stage, row).total


def _need_of(plan: Plan, graph: PlanGraph, stage: Stage, row: Sequence[Action]) -> _Need:
    sizes = {entry.names[0]: entry.bytes for entry in graph.parameters}
    operators = [o for o in graph.operators if stage.index in o.placed_on]
    fixed = sum(_parameter_bytes(plan, t, sizes[t.names[0]]) for t in stage.parameters)
    received = sum(graph.values[name].bytes for name in stage.receives)
    saved = sum(operator.saved_bytes for operator in operators)
    in_flight = _in_flight(stage.index, row)
    # A stage that recomputes saves one microbatch at a time.
    saving = min(1, in_flight) if stage.recompute else in_flight
    transient = max((operator.transient_bytes for operator in operators), default=0)
    return _Need(fixed + saving * saved + in_flight * received, transient)


def _parameter_bytes(plan: Plan, tensor: StageTensor, size: int) -> int:
    """Weight, gradient and optimizer states; half precision brings a float32 master of its own."""
    if not tensor.trainable:
        return size
    half = tensor.dtype in HALF
    # The gradient that is summed, and all that is stepped, is float32.
    gradient = 2 * size if half else size
    stepped = plan.optimizer.state_bytes(tensor.shape, gradient) + gradient * half
    if plan.shard_optimizer and tensor.shape and tensor.shape[0] >= plan.replicas:
        # The rows of the replica that has most.
        rows = tensor.shape[0]
        stepped = stepped // rows * -(-rows // plan.replicas)
    return size + gradient + stepped


def _in_flight(stage: int, row: Sequence[Action]) -> int:
    """Microbatches that a stage holds activations of, at the most."""
    live = peak = 0
    for action in row:
        if isinstance(action, Compute) and action.stage == stage:
            live += {"F": 1, "I": 0}.get(action.op, -1)
            peak = max(peak, live)
    return peak


def _check_stage(stage: Stage, need: _Need) -> None:
    if need.total > stage.capacity_bytes:
        raise PlanError(
            f"rank {stage.pipeline_rank}, stage {stage.index}: needs {need.total} bytes of "
            f"{stage.capacity_bytes}; {FEWER}"
        )
    if need.total > stage.memory_bytes:
        raise PlanError(
            f"stage {stage.index}: the plan says {stage.memory_bytes} bytes, the schedule needs "
            f"{need.total}; {OTHER_MEMORY}"
        )


def _check_peak(plan: Plan, row: Sequence[Action], pipeline_rank: int) -> None:
    """The peak is what the plan says, and fits beside what no tensor can have."""
    stage = next(s for s in plan.stages if s.pipeline_rank == pipeline_rank)
    peak, outside = peak_of(plan, row, pipeline_rank), outside_bytes(plan, pipeline_rank)
    if peak != stage.peak_bytes:
        raise PlanError(
            f"rank {pipeline_rank}: the plan says {stage.peak_bytes} bytes at the peak, a step "
            f"takes {peak}; {OTHER_MEMORY}"
        )
    if outside > stage.outside_bytes:
        raise PlanError(
            f"rank {pipeline_rank}: the plan says that context and communicators take "
            f"{stage.outside_bytes} bytes, they take {outside}; compile again"
        )
    if peak + stage.outside_bytes > stage.device_bytes:
        raise PlanError(
            f"rank {pipeline_rank}: a step takes {peak} bytes at its peak, beside "
            f"{stage.outside_bytes} of context and communicators, and {stage.device} has "
            f"{stage.device_bytes}; set a larger reserve in the cluster file, or a smaller "
            "microbatch, or keep fewer microbatches in flight"
        )
