"""Stages, what a microbatch takes on them, and the boundaries between them."""

from pipecut.device.types import TypeName
from pipecut.plan.schema.dimensions import Dimension
from pipecut.plan.schema.numbers import Bytes, Count, Finite, PlanModel, Rate, Seconds, Signed
from pipecut.plan.schema.tensors import StageTensor, Tensor


class ValueCheck(PlanModel):
    """A choice by a tensor's value, which the stages are right for while `value` is `answer`.

    `value` is a boolean of the graph, `condition` the model's source at file:line `source`, and
    `inputs` are the batch's tensors that it depends on. `only_raises`: for the other answer the
    model raises an error.
    """

    value: str
    condition: str
    answer: bool
    source: str
    inputs: list[str] = []
    only_raises: bool = False

    def __str__(self) -> str:
        """`labels.max() >= 10 is False (model.py:7)`."""
        return f"{self.condition} is {self.answer} ({self.source})"


class StageMemory(PlanModel):
    """Bytes that a microbatch takes, above parameters, buffers, what it receives and the batch.

    `kept` is alive after a forward, `saved` once what is sent has left. The first backward of a
    step allocates the `gradients` of parameters; backward's peaks are without the gradient that
    arrives for it. Under a schedule that splits backward, `weights_kept` is alive until the
    gradients of weights are computed; their peaks are above what is alive before them, and
    `weights_gradients` are allocated by the first.
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


class OpaqueResult(PlanModel):
    """A tensor that an opaque module returns."""

    shape: list[Dimension]
    dtype: str


class OpaqueModule(PlanModel):
    """A module of the user's model that a stage runs as it is.

    `results` has what its calls return: the tensors of each, in order, without repetition.
    `others` has, for each of these, what it returns beside tensors by kind and value, as
    `int 2*batch` or `bool True`; empty where no call returns anything else.
    """

    name: str
    results: list[list[OpaqueResult]]
    others: list[list[str]] = []


class SecondsAt(PlanModel):
    """What a whole microbatch takes on a stage at this share of the longest lengths."""

    share: Finite
    forward_seconds: Seconds
    backward_seconds: Seconds


class Stage(PlanModel):
    """One stage, on the ranks of `pipeline_rank`. Seconds and bytes are per microbatch.

    - `outputs`: what the model returns beside its loss, by its own names; can be asked for.
    - `checks`: choices by a value that is made on the stage, compared in every microbatch.
    - `load_seconds`: forward, backward and transfers; with the second forward where it recomputes.
    - `recompute`: keeps only what it receives, and runs forward again before each backward.
    - `memory_bytes`: what the partitioner counts, at most `capacity_bytes`: the device's memory
      less the cluster's reserve, which `buffer_bytes` of tensors on their way come out of.
    - `draws`: which of the model's random draws (dropout's and others'), counted in the model's
      own order, are on the stage.
    - `opaque`: modules of the user's model that it runs as they are.
    - `weight_seconds`: of `backward_seconds`, those for gradients of weights under a schedule that
      splits backward.
    - `reduce_seconds`: per step, to sum gradients over replicas.
    - `peak_bytes`: what all tensors of its rank take, replayed from `passes`; with `outside_bytes`
      of a GPU's context and communicators at most `device_bytes`.
    - `passes`: None where an operator cannot run on fake tensors.
    - `shorter`: where lengths differ, what less than the longest takes, by rising share.
    """

    index: Count
    pipeline_rank: Count
    device: str
    device_type: TypeName
    operators: Count
    parameter_count: Bytes
    modules: list[str]
    forward_seconds: Seconds
    backward_seconds: Seconds
    weight_seconds: Seconds = 0.0
    load_seconds: Seconds
    reduce_seconds: Seconds = 0.0
    recompute: bool
    peak_bytes: Bytes = 0
    outside_bytes: Bytes = 0
    device_bytes: Bytes
    memory_bytes: Bytes
    capacity_bytes: Signed
    buffer_bytes: Bytes = 0
    file: str
    bytes_sent: Bytes
    receives: list[str]
    batch_inputs: list[str]
    sends: list[str]
    draws: list[Count] = []
    outputs: list[Tensor] = []
    opaque: list[OpaqueModule] = []
    checks: list[ValueCheck] = []
    parameters: list[StageTensor]
    buffers: list[StageTensor]
    passes: StageMemory | None = None
    shorter: list[SecondsAt] = []

    @property
    def recompute_seconds(self) -> float:
        """Seconds of the second forward; 0 where the stage does not recompute."""
        return self.forward_seconds if self.recompute else 0.0

    @property
    def backward_with_recompute(self) -> float:
        """Seconds of a backward, with the forward before it where the stage recomputes."""
        return self.backward_seconds + self.recompute_seconds

    @property
    def taken_bytes(self) -> int:
        """All that its rank takes of its device: tensors, context and communicators."""
        return self.peak_bytes + self.outside_bytes


class Boundary(PlanModel):
    """What goes from stage `left` to `left` + 1, with the link between them."""

    left: Count
    bandwidth: Rate
    latency: Seconds
    tensors: list[Tensor]


class EvaluationStage(PlanModel):
    """What a stage takes, returns, checks and draws in eval mode; names and order as in `Stage`."""

    operators: int
    receives: list[str]
    batch_inputs: list[str]
    sends: list[str]
    outputs: list[Tensor] = []
    checks: list[ValueCheck] = []
    draws: list[int] = []


class Evaluation(PlanModel):
    """Eval mode, where it differs from training.

    With no `stages` it runs training's operators over training's boundaries; `boundaries` has the
    tensors after each stage but the last. `refused` is the reason why the plan only trains.
    `left_out` has, for what the model returns but cannot be asked for, the reason. `loss` is false
    where the model has none in eval mode, `dynamic` where it fixes its batch size there,
    `longest_only` where it fixes lengths that differ in training.
    """

    refused: str = ""
    left_out: dict[str, str] = {}
    loss: bool = True
    dynamic: bool = True
    longest_only: bool = False
    stages: list[EvaluationStage] = []
    boundaries: list[list[Tensor]] = []

    def nothing_to_predict(self) -> str:
        """What to say of a plan whose stages have no outputs in eval mode."""
        left_out = [
            f"'{name}' cannot be handed out: {reason}" for name, reason in self.left_out.items()
        ]
        return "; ".join(
            ["the model returns nothing but its loss, so there is nothing to predict", *left_out]
        )
