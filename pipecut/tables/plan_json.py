"""A plan as one JSON object for scripts: what the table of `pipecut show` says, as numbers."""

from pipecut.plan.schema import CertificateRecord, Plan, Prediction, Stage, Tied, TraceComparison
from pipecut.plan.schema.numbers import PlanModel

# Grows when a key goes or means something else; new keys may come without.
SHAPE = 1


class ShownStage(PlanModel):
    """A stage. Seconds are per microbatch; bytes are those of its rank's device, and those sent.

    `recompute_seconds` are of the second forward, 0 where the stage does not recompute;
    `peak_bytes` are everything that the rank takes of `device_bytes`.
    """

    stage: int
    pipeline_rank: int
    device: str
    device_type: str
    modules: list[str]
    parameters: int
    forward_seconds: float
    backward_seconds: float
    recompute_seconds: float
    peak_bytes: int
    device_bytes: int
    bytes_sent: int


class ShownPlan(PlanModel):
    """A plan; `seal` tells it from any other."""

    shape: int
    plan_version: int
    seal: str
    model: str
    cluster: str
    schedule: str
    replicas: int
    ranks: int
    microbatches: int
    microbatch: int
    certificate: CertificateRecord
    trace: TraceComparison
    prediction: Prediction
    stages: list[ShownStage]
    tied: list[Tied]
    notes: list[str]


def shown_plan(plan: Plan) -> ShownPlan:
    """What is shown of a plan."""
    return ShownPlan(
        shape=SHAPE,
        plan_version=plan.version,
        seal=plan.seal,
        model=plan.model.factory,
        cluster=plan.cluster,
        schedule=plan.schedule,
        replicas=plan.replicas,
        ranks=plan.ranks,
        microbatches=plan.microbatches,
        microbatch=plan.batch.microbatch,
        certificate=plan.certificate,
        trace=plan.trace,
        prediction=plan.prediction,
        stages=[_stage(stage) for stage in plan.stages],
        tied=plan.tied,
        notes=plan.notes,
    )


def _stage(stage: Stage) -> ShownStage:
    return ShownStage(
        stage=stage.index,
        pipeline_rank=stage.pipeline_rank,
        device=stage.device,
        device_type=stage.device_type,
        modules=stage.modules,
        parameters=stage.parameter_count,
        forward_seconds=stage.forward_seconds,
        backward_seconds=stage.backward_seconds,
        recompute_seconds=stage.recompute_seconds,
        peak_bytes=stage.taken_bytes,
        device_bytes=stage.device_bytes,
        bytes_sent=stage.bytes_sent,
    )
