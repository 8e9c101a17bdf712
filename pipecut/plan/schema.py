"""The plan's schema: the contract between compiler and runtime."""

import ast
from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipecut.device.types import TypeName
from pipecut.errors import PlanError, RunError

if TYPE_CHECKING:
    import torch

VERSION = 6
Dimension = int | str
# A flag or number of a batch, the same for every batch.
Constant = bool | int | float | str | None
ITEM_BYTES = {
    **dict.fromkeys(("bool", "uint8", "int8", "float8_e4m3fn", "float8_e5m2"), 1),
    **dict.fromkeys(("int16", "uint16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("int32", "uint32", "float32"), 4),
    **dict.fromkeys(("int64", "uint64", "float64", "complex64"), 8),
    "complex128": 16,
}


# Parameters that have a float32 master, which the optimizer has.
HALF = ("bfloat16", "float16")


def _known_dtype(name: str) -> str:
    if name not in ITEM_BYTES:
        raise ValueError(f"unknown dtype '{name}'")
    return name


Dtype = Annotated[str, AfterValidator(_known_dtype)]
# What a number of a plan may be, so that no sum or product of some overflows or is no number.
Seconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=1e18, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=0, le=2**60)]
Signed = Annotated[int, Field(ge=-(2**60), le=2**60)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**31)]
Positive = Annotated[int, Field(ge=1, le=2**31)]


class PlanModel(BaseModel):
    """Base of the schema: immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelRef(PlanModel):
    """Where the unsplit model comes from; needed to initialise and to verify.

    `sources` has the start of the sha256 of the user's own files that it is made of.
    `default_dtype` is that of tensors whose operator names none, as torch had it when it was traced.
    """

    factory: str
    args: dict[str, Any]
    inputs: str
    loss: str | None
    folders: list[str]
    precision: Literal["fp32", "bf16", "fp16"]
    seed: int
    default_dtype: Dtype = "float32"
    weights: str | None
    sources: dict[str, str] = {}


class Terms(PlanModel):
    """What the loss is the mean over: labels of an input but for `ignored` ones and the first `skipped` of each sample."""

    input: str
    ignored: int
    skipped: Count

    def count(self, labels: "torch.Tensor") -> int:
        """Those of some samples."""
        counting = labels[:, self.skipped :] if self.skipped else labels
        return int((counting != self.ignored).sum())


class Batch(PlanModel):
    """Samples a step, samples a microbatch; `dynamic` when any other size works too.

    A microbatch's part of the loss is that of its samples, or of its `terms`.
    """

    global_size: Positive
    microbatch: Positive
    dynamic: bool
    terms: Terms | None = None

    def weights(self, batch: dict[str, "torch.Tensor"], samples: list[int]) -> list[float]:
        """Each microbatch's part of the loss of a whole batch that is split into so many samples each; they sum to 1.

        Raises RunError when one has no label that counts.
        """
        counts = samples
        if self.terms is not None:
            # Here, so that whoever only starts ranks and reads what they do imports no torch.
            import torch

            counts = [
                self.terms.count(labels) for labels in torch.split(batch[self.terms.input], samples)
            ]
            if 0 in counts:
                raise RunError(
                    f"no label of microbatch {counts.index(0)} counts ('{self.terms.input}' is {self.terms.ignored} throughout), "
                    "so its mean is not a number; put samples together otherwise"
                )
        return [count / sum(counts) for count in counts]


class Tensor(PlanModel):
    """A tensor over a boundary, from the batch or to the user. Dimensions are ints or expressions in `batch`.

    Of the batch, an `optional` one is not needed for the model's outputs, only for its loss; a `whole` one is the same for every
    microbatch, since none of its dimensions follows the batch. `order` lists the dimensions from the outermost in memory to the
    innermost; empty when that is their own order.
    """

    name: str
    shape: list[Dimension]
    dtype: Dtype
    needs_grad: bool = False
    order: list[int] = []
    optional: bool = False
    whole: bool = False

    def sizes(self, batch: int) -> list[int]:
        """The shape for a microbatch of that many samples."""
        return [evaluate(d, batch) for d in self.shape]

    @property
    def samples_at(self) -> int:
        """The dimension that has the samples, by which microbatches are put together."""
        return self.shape.index("batch") if "batch" in self.shape else 0

    def bytes_for(self, batch: int) -> int:
        """Bytes of a microbatch of that many samples."""
        return prod(self.sizes(batch)) * ITEM_BYTES[self.dtype]


class StageTensor(PlanModel):
    """A parameter or buffer of a stage; `names` are all its FQNs. `written` when the stage's forward changes it."""

    names: list[str]
    shape: list[Bytes]
    dtype: Dtype
    trainable: bool = False
    persistent: bool = True
    written: bool = False

    @property
    def bytes(self) -> int:
        """Of its values."""
        return ITEM_BYTES[self.dtype] * prod(self.shape)

    @property
    def gradient_bytes(self) -> int:
        """Of its gradient, which is float32 where it has a master."""
        return (
            self.bytes * (4 // ITEM_BYTES[self.dtype] if self.dtype in HALF else 1)
            if self.trainable
            else 0
        )


class StageMemory(PlanModel):
    """Bytes that a microbatch takes on its stage, above parameters, buffers, what it receives and the batch.

    `kept` is alive after a forward, `saved` once what is sent has left. The first backward of a step brings `gradients` of
    parameters into being; backward's peaks are without the gradient that it is given. Where gradients of weights come later,
    `weights_kept` is alive until then, their peaks are above what is alive before them; `weights_gradients` come with the first.
    """

    forward_peak: Signed
    kept: Signed
    saved: Signed
    first_backward_peak: Signed
    backward_peak: Signed
    gradients: Signed
    weights_kept: Signed = 0
    weights_first_peak: Signed = 0
    weights_peak: Signed = 0
    weights_gradients: Signed = 0


class Stage(PlanModel):
    """One stage. Seconds per microbatch. Stage and replica run on rank `pipeline_rank` x replicas + replica.

    `memory_bytes` is what the partitioner counts, at the most, against `capacity_bytes`: the device's less the cluster's reserve,
    out of which come `buffer_bytes` of tensors on their way. `peak_bytes` is what its rank's tensors take, replayed
    from `passes`, which with `outside_bytes` of a GPU's context and communicators stays within `device_bytes`; `passes`
    are None where they could not be found. `reduce_seconds` is once a step, to sum gradients over replicas;
    `weight_seconds` are those of the backward that gradients of weights take, where they come by themselves.
    `outputs` are what the model gives beside its loss, by its own names, and can be asked for. `dropouts` says which of the
    model's random draws, dropout's and others', in its own order, are on the stage.
    A stage that recomputes keeps what it receives and runs its forward again before each backward; `load_seconds`
    has that.
    """

    index: Count
    device: str
    device_type: TypeName
    file: str
    modules: list[str]
    operators: Count
    receives: list[str]
    batch_inputs: list[str]
    sends: list[str]
    outputs: list[Tensor] = []
    parameters: list[StageTensor]
    buffers: list[StageTensor]
    parameter_count: Bytes
    forward_seconds: Seconds
    backward_seconds: Seconds
    load_seconds: Seconds
    recompute: bool
    memory_bytes: Bytes
    capacity_bytes: Signed
    buffer_bytes: Bytes = 0
    bytes_sent: Bytes
    pipeline_rank: Count
    dropouts: list[Count] = []
    weight_seconds: Seconds = 0.0
    reduce_seconds: Seconds = 0.0
    device_bytes: Bytes
    peak_bytes: Bytes = 0
    outside_bytes: Bytes = 0
    passes: StageMemory | None = None

    @property
    def backward_and_again(self) -> float:
        """Seconds of a backward, with the forward before it where the stage recomputes."""
        return self.backward_seconds + (self.forward_seconds if self.recompute else 0.0)


class Boundary(PlanModel):
    """What goes from stage `left` to `left` + 1, with the link between them."""

    left: Count
    tensors: list[Tensor]
    bandwidth: Rate
    latency: Seconds


class EvaluationStage(PlanModel):
    """What a stage takes, gives and draws in eval mode; names and order as in `Stage`."""

    operators: int
    receives: list[str]
    batch_inputs: list[str]
    sends: list[str]
    outputs: list[Tensor] = []
    dropouts: list[int] = []


class Evaluation(PlanModel):
    """The model in eval mode, where that is not the same operators over the same boundaries.

    With no `stages` it is. `boundaries` has the tensors after each stage but the last. It is `refused` for a reason, and may have
    no `loss`. `left_out` says why something that the model returns cannot be asked for. A batch is of any size where `dynamic`.
    """

    refused: str = ""
    left_out: dict[str, str] = {}
    loss: bool = True
    dynamic: bool = True
    stages: list[EvaluationStage] = []
    boundaries: list[list[Tensor]] = []


class Tied(PlanModel):
    """A parameter that several stages use. Gradients are summed from the last stage to the first, in `reduce_seconds` a step."""

    names: list[str]
    stages: list[Count]
    reduce_seconds: Seconds = 0.0


class Prediction(PlanModel):
    """Of one step: seconds, and the part of it that ranks wait, over all ranks."""

    step_seconds: Seconds
    bubble: Finite


class CertificateRecord(PlanModel):
    """Objective and bound in seconds of the slowest stage."""

    objective: Seconds
    bound: Seconds
    gap: Finite
    proven: bool
    solver: str
    seconds: Seconds


class Source(PlanModel):
    """What a plan was compiled from: job file, cluster file or name, and of its `available` devices that of each rank.

    Devices are counted as in the cluster file, from 0; `lost` ones were left out.
    `nodes` has the node of each rank, `names` what drivers call a device, by its kind.
    """

    job: str
    cluster: str
    available: Count
    devices: list[Count]
    lost: list[Count] = []
    nodes: list[Count] = []
    names: dict[str, list[str]] = {}


class Plan(PlanModel):
    """plan.yaml."""

    version: int
    pipecut: str
    torch: str
    cluster: str
    model: ModelRef
    batch: Batch
    optimizer: str
    shard_optimizer: bool = False
    compile: Literal["eager", "inductor"] = "eager"
    replicas: Positive = 1
    schedule: str
    inputs: list[Tensor]
    constants: dict[str, Constant] = {}
    stages: list[Stage]
    boundaries: list[Boundary]
    evaluation: Evaluation = Evaluation()
    tied: list[Tied]
    prediction: Prediction
    certificate: CertificateRecord
    notes: list[str]
    source: Source | None = None
    hashes: dict[str, str] = {}
    seal: str = ""

    @property
    def microbatches(self) -> int:
        """Microbatches of each replica in a step of the global size."""
        return -(-self.batch.global_size // (self.batch.microbatch * self.replicas))

    def batch_bytes(self, tensor: Tensor) -> int:
        """Bytes that one of `inputs` has in a batch of the global size."""
        if self.batch.dynamic or tensor.whole:
            return tensor.bytes_for(self.batch.global_size)
        return tensor.bytes_for(self.batch.microbatch) * -(
            -self.batch.global_size // self.batch.microbatch
        )

    def in_evaluation(self) -> "Plan":
        """The plan with what its stages take and give in eval mode."""
        own = self.evaluation
        if not own.stages:
            return self
        stages = [
            stage.model_copy(update=dict(other))
            for stage, other in zip(self.stages, own.stages, strict=True)
        ]
        boundaries = [
            boundary.model_copy(update={"tensors": tensors})
            for boundary, tensors in zip(self.boundaries, own.boundaries, strict=True)
        ]
        batch = self.batch.model_copy(update={"dynamic": self.batch.dynamic and own.dynamic})
        return self.model_copy(update={"stages": stages, "boundaries": boundaries, "batch": batch})

    @property
    def shards(self) -> int:
        """Replicas that masters and optimizer states are divided over."""
        return self.replicas if self.shard_optimizer else 1

    @property
    def pipeline_rank_of(self) -> dict[int, int]:
        """The place in the pipeline of each stage."""
        return {stage.index: stage.pipeline_rank for stage in self.stages}

    def over_link(self, boundary: int) -> bool:
        """Whether the stages before and after a boundary are on two ranks."""
        return self.stages[boundary].pipeline_rank != self.stages[boundary + 1].pipeline_rank

    @property
    def ranks(self) -> int:
        """Processes that run the plan."""
        return len({stage.pipeline_rank for stage in self.stages}) * self.replicas


_OPERATIONS: dict[type, Callable[[int, int], int]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
    ast.Pow: lambda a, b: a**b,
}
# A dimension is no larger than this, and no power of it needs a larger exponent.
LARGEST, HIGHEST = 1 << 62, 4


def evaluate(dimension: Dimension, batch: int) -> int:
    """A dimension for a batch: `16*batch`. Only integers, `batch` and + - * // % ** are known. Raises PlanError."""
    if isinstance(dimension, int):
        return dimension

    def walk(node: ast.AST) -> int:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.Name) and node.id == "batch":
            return batch
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -walk(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
            left, right = walk(node.left), walk(node.right)
            if max(abs(left), abs(right)) <= LARGEST and (
                not isinstance(node.op, ast.Pow) or 0 <= right <= HIGHEST
            ):
                return _OPERATIONS[type(node.op)](left, right)
        raise PlanError(f"the plan has a dimension '{dimension}' that is no expression in batch")

    try:
        return walk(ast.parse(dimension, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError) as error:
        raise PlanError(
            f"the plan has a dimension '{dimension}' that cannot be read: {error}"
        ) from None
