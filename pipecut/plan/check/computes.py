"""Every stage computes every microbatch once, and gradients are summed after that."""

from collections import Counter
from collections.abc import Sequence

from pipecut.errors import PlanError
from pipecut.plan.actions import Action, Compute, Op, Reduce, splits_backward
from pipecut.plan.replay.deadlock import Rows
from pipecut.plan.rules import Combination, conflict_of
from pipecut.plan.schema import Plan


def computes_everything(plan: Plan, actions: Rows) -> str:
    """Forward and backward of every stage on every microbatch, once. Raises PlanError."""
    ranks = plan.layout.pipeline_ranks
    if len(actions) != ranks:
        raise PlanError(f"schedule.yaml has {len(actions)} ranks, the plan {ranks}; compile again")
    split = any(map(splits_backward, actions))
    _check_combination(plan, split)
    total = sum(_computes_once(plan, s.index, actions[s.pipeline_rank]) for s in plan.stages)
    for row in actions:
        _check_sums(plan, row)
    return f"{total} forward and backward actions, each once"


def check_row(plan: Plan, pipeline_rank: int, row: Sequence[Action]) -> None:
    """`computes_everything` of one rank. Raises PlanError."""
    _check_combination(plan, splits_backward(row))
    for stage in plan.layout.stages_of(pipeline_rank):
        _computes_once(plan, stage, row)
    _check_sums(plan, row)


def _check_combination(plan: Plan, splits: bool) -> None:
    """The rules that the compiler asks of a request, asked of the plan."""
    evaluated = plan.in_evaluation().stages
    combination = Combination(
        replicas=plan.replicas,
        writes_buffers=any(tensor.written for s in plan.stages for tensor in s.buffers),
        compiled=plan.compile == "inductor",
        split=plan.schedule if splits else "",
        opaque=next((opaque.name for s in plan.stages for opaque in s.opaque), ""),
        draws="the model" if any(s.draws for s in (*plan.stages, *evaluated)) else "",
        sharded=plan.shard_optimizer,
        whole="" if plan.optimizer.kind.elementwise else plan.optimizer.name,
    )
    conflict = conflict_of(combination)
    if conflict is not None:
        raise PlanError(f"{conflict.why}; compile again")


def _computes_once(plan: Plan, stage: int, row: Sequence[Action]) -> int:
    """Count the computes of a stage: each microbatch's forward and backward once."""
    times = Counter(a for a in row if isinstance(a, Compute) and a.stage == stage)
    split = any(compute.op == "W" for compute in times)
    ops: tuple[Op, ...] = ("F", "I", "W") if split else ("F", "B")
    for op in ops:
        counts = {c.microbatch: count for c, count in times.items() if c.op == op}
        # Counted first: a plan may name more microbatches than memory can list.
        complete = len(counts) == plan.microbatches and max(counts) == plan.microbatches - 1
        if not complete or set(counts.values()) != {1}:
            raise PlanError(
                f"stage {stage}: {op} does not run once for each of {plan.microbatches} "
                "microbatches; compile again"
            )
    if any(compute.op not in ops for compute in times):
        raise PlanError(f"stage {stage}: some backwards are split and some are not; compile again")
    return len(ops) * plan.microbatches


def _check_sums(plan: Plan, row: Sequence[Action]) -> None:
    several = plan.tied or plan.replicas > 1
    if several and row.count(Reduce()) != 1:
        raise PlanError("tied parameters and replicas need one REDUCE on every rank; compile again")
    if Reduce() in row[:-1]:
        raise PlanError(
            "REDUCE is not the last of a rank's actions: gradients that come later would not be "
            "summed; put it at the end, or compile again"
        )
