"""What every view needs of a plan: its stages, and the words for it."""

from dataclasses import dataclass

from pipecut.plan.schema import Plan, Stage


@dataclass(frozen=True)
class StageFacts:
    """A stage. Seconds and `sends` are per microbatch.

    `backward` has the second forward of a stage that recomputes; `load` also has transfers. `peak`
    is what the rank takes at its peak, with what no tensor can have, of `capacity`.
    """

    index: int
    rank: int
    device: str
    modules: tuple[str, ...]
    parameters: int
    operators: int
    forward: float
    backward: float
    load: float
    recompute: bool
    peak: int
    capacity: int
    sends: int


@dataclass(frozen=True)
class PlanFacts:
    """A plan in short: `rank` of a stage is its pipeline rank, of `replicas` equal ones each."""

    model: str
    cluster: str
    schedule: str
    microbatch: int
    microbatches: int
    replicas: int
    ranks: int
    stages: tuple[StageFacts, ...]


def facts_of(plan: Plan) -> PlanFacts:
    """The facts of a plan."""
    return PlanFacts(
        model=plan.model.factory,
        cluster=plan.cluster,
        schedule=plan.schedule,
        microbatch=plan.batch.microbatch,
        microbatches=plan.microbatches,
        replicas=plan.replicas,
        ranks=plan.ranks,
        stages=tuple(map(_stage, plan.stages)),
    )


def _stage(stage: Stage) -> StageFacts:
    return StageFacts(
        index=stage.index,
        rank=stage.pipeline_rank,
        device=stage.device,
        modules=tuple(stage.modules),
        parameters=stage.parameter_count,
        operators=stage.operators,
        forward=stage.forward_seconds,
        backward=stage.backward_with_recompute,
        load=stage.load_seconds,
        recompute=stage.recompute,
        peak=stage.peak_bytes + stage.outside_bytes,
        capacity=stage.device_bytes,
        sends=stage.bytes_sent,
    )
