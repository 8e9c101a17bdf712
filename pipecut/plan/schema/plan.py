"""The plan: plan.yaml as a frozen value."""

from collections.abc import Iterator
from typing import Any, Literal

from pipecut.plan.layout import RankLayout
from pipecut.plan.schema.batch import Batch
from pipecut.plan.schema.dtypes import Dtype
from pipecut.plan.schema.nesting import Container
from pipecut.plan.schema.numbers import (
    Constant,
    Count,
    Finite,
    NonNegative,
    PlanModel,
    Positive,
    Seconds,
)
from pipecut.plan.schema.optimizer import Optimizer
from pipecut.plan.schema.stage import Boundary, Evaluation, Stage
from pipecut.plan.schema.tensors import Tensor
from pipecut.plan.schema.text import columns_of
from pipecut.plan.schema.training import EvalData, LrSchedule, Norm
from pipecut.quantities import counted, show_seconds
from pipecut.text_table import text_table

VERSION = 8


class ModelRef(PlanModel):
    """Where the unsplit model comes from; needed to initialise and to verify.

    `folders` to import from and `weights` are places on this machine, which plan.yaml has as ways
    from the plan folder. `sources` has the start of the sha256 of the user's own files that it is
    made of.
    `default_dtype` is torch's when the model was traced: that of tensors whose operator names none.
    """

    factory: str
    args: dict[str, Any]
    inputs: str
    loss: str | None = None
    folders: list[str]
    precision: Literal["fp32", "bf16", "fp16"]
    seed: int
    default_dtype: Dtype = "float32"
    weights: str | None = None
    sources: dict[str, str] = {}


class Tied(PlanModel):
    """A parameter that several stages use.

    Its gradients are summed from the last stage to the first, in `reduce_seconds` per step.
    """

    names: list[str]
    stages: list[Count]
    reduce_seconds: Seconds = 0.0


class Prediction(PlanModel):
    """Seconds of a step, and the fraction of it that ranks wait, over all ranks.

    `flops` are the model's own in a step, without those of a second forward; `peak_flops` is what
    all devices compute in a second at the most, 0 where a data sheet does not say it.
    """

    step_seconds: Seconds
    bubble: Finite
    flops: NonNegative = 0.0
    peak_flops: NonNegative = 0.0


class CertificateRecord(PlanModel):
    """Objective and lower bound: seconds of the slowest stage for a microbatch."""

    objective: Seconds
    bound: Seconds
    gap: Finite
    proven: bool
    solver: str
    seconds: Seconds


# Why a trace was not compared that the user trusts.
TRUSTED = "left out by --trust-trace"


class TraceComparison(PlanModel):
    """Whether the traced graph was run beside the model itself; `how`, or why it was not."""

    compared: bool = False
    how: str = ""

    def __str__(self) -> str:
        """The line of tables and of the check."""
        answer = "yes" if self.compared else "no"
        return f"trace compared with the model: {answer}" + (f" ({self.how})" if self.how else "")


class Source(PlanModel):
    """What a plan was compiled from: the job file, and the cluster file or name, likewise places.

    `devices` has the cluster's device of each rank, of `available` ones, counted from 0 as in the
    cluster file; `lost` ones were left out. `nodes` has the node of each rank, `names` what drivers
    call a device, by its kind.
    """

    job: str
    cluster: str
    available: Count
    devices: list[Count]
    lost: list[Count] = []
    nodes: list[Count] = []
    names: dict[str, list[str]] = {}


class Plan(PlanModel):
    """plan.yaml, with what parameters.json has of its stages; in the order in which people read.

    The compiler builds it once; `hashes` and `seal` come when it is written.
    """

    version: int
    pipecut: str
    torch: str
    cluster: str
    schedule: str
    replicas: Positive = 1
    batch: Batch
    optimizer: Optimizer
    shard_optimizer: bool = False
    lr_schedule: LrSchedule | None = None
    clip: Norm = 0.0
    eval: EvalData | None = None
    compile: Literal["eager", "inductor"] = "eager"
    model: ModelRef
    certificate: CertificateRecord
    trace: TraceComparison = TraceComparison()
    prediction: Prediction
    notes: list[str]
    stages: list[Stage]
    boundaries: list[Boundary]
    tied: list[Tied]
    inputs: list[Tensor]
    constants: dict[str, Constant] = {}
    nesting: dict[str, Container] = {}
    evaluation: Evaluation = Evaluation()
    source: Source | None = None
    hashes: dict[str, str] = {}
    seal: str = ""

    def __str__(self) -> str:
        """A table of the stages, what is proven and predicted, and notes."""
        columns = columns_of(self.stages)
        rows = list(zip(*(column.cells for column in columns), strict=True))
        table = text_table([column.title for column in columns], rows)
        return "\n".join([self.title, table, *self.summary()])

    @property
    def title(self) -> str:
        """`model on cluster: schedule, microbatches`."""
        replicas = f", {self.replicas} replicas" if self.replicas > 1 else ""
        return (
            f"{self.model.factory} on {self.cluster}: {self.schedule}, "
            f"{counted(self.microbatches, 'microbatch')} of {self.batch.microbatch}{replicas}"
        )

    def summary(self) -> Iterator[str]:
        """The bottleneck and the trace with what is proven of them, the step, ties, notes."""
        certificate = self.certificate
        verdict = "proven optimal" if certificate.proven else f"gap {certificate.gap:.2%}"
        yield (
            f"bottleneck {show_seconds(certificate.objective)} per microbatch, "
            f"bound {show_seconds(certificate.bound)}, {verdict} "
            f"({certificate.solver}, {certificate.seconds:.1f} s)"
        )
        yield str(self.trace)
        step = self.prediction.step_seconds
        yield f"predicted step {show_seconds(step)}, bubble {self.prediction.bubble:.0%}"
        for tied in self.tied:
            yield f"tied: {' = '.join(tied.names)} on stages {', '.join(map(str, tied.stages))}"
        for note in self.notes:
            yield f"note: {note}"

    @property
    def microbatches(self) -> int:
        """Microbatches of each replica in a step of the global size."""
        return -(-self.batch.global_size // (self.batch.microbatch * self.replicas))

    def batch_bytes(self, tensor: Tensor) -> int:
        """Bytes that one of `inputs` has in a batch of the global size."""
        batch = self.batch
        if batch.dynamic or tensor.whole:
            return tensor.bytes_for(batch.sizes(batch.global_size))
        microbatches = -(-batch.global_size // batch.microbatch)
        return tensor.bytes_for(batch.largest) * microbatches

    def in_evaluation(self) -> "Plan":
        """The plan with what its stages take and return in eval mode."""
        evaluation = self.evaluation
        if not evaluation.stages:
            return self
        stages = [
            stage.model_copy(update=dict(changes))
            for stage, changes in zip(self.stages, evaluation.stages, strict=True)
        ]
        boundaries = [
            boundary.model_copy(update={"tensors": tensors})
            for boundary, tensors in zip(self.boundaries, evaluation.boundaries, strict=True)
        ]
        dynamic = self.batch.dynamic and evaluation.dynamic
        batch, inputs = self.batch.model_copy(update={"dynamic": dynamic}), self.inputs
        if evaluation.longest_only:
            batch = batch.model_copy(update={"lengths": {}, "more_samples": None})
            inputs = [tensor.with_numbers(self.batch.sizes(0)) for tensor in inputs]
        changed = {"stages": stages, "boundaries": boundaries, "batch": batch, "inputs": inputs}
        return self.model_copy(update=changed)

    @property
    def shards(self) -> int:
        """Replicas that masters and optimizer states are divided over."""
        return self.replicas if self.shard_optimizer else 1

    @property
    def layout(self) -> RankLayout:
        """Which rank runs which stage of which replica."""
        return RankLayout(tuple(stage.pipeline_rank for stage in self.stages), self.replicas)

    @property
    def ranks(self) -> int:
        """Processes that run the plan."""
        return self.layout.size

    def stages_on(self, rank: int) -> list[Stage]:
        """The stages that a rank runs."""
        pipeline_rank = self.layout.place(rank).pipeline_rank
        return [stage for stage in self.stages if stage.pipeline_rank == pipeline_rank]
