"""The job file to typed values, and the user's functions it names."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from pipecut.compiler.inputs.auto import AUTO, Auto
from pipecut.compiler.inputs.document.positions import KEY, TOP, location_of, position_of
from pipecut.compiler.inputs.document.read import read_document
from pipecut.compiler.inputs.document.schema import FileSchema, FunctionName, OrAuto, Renamed
from pipecut.compiler.inputs.layout import NO_LAYOUT, Layout, checked_layout, parse_layout
from pipecut.compiler.inputs.optimizer import OptimizerByName, OptimizerKeys, check_arguments
from pipecut.compiler.inputs.training import EvalKeys, LrScheduleKeys, Number
from pipecut.compiler.schedules.registry import SCHEDULES, WITH_CHOSEN_STAGES_PER_RANK
from pipecut.errors import UserFileError
from pipecut.model.functions import find_function
from pipecut.model.optimizer import learning_rate

# More stages of a rank than any schedule has use for.
MOST_STAGES_PER_RANK = 64
Count = Annotated[int, Field(ge=1)]
CountOrAuto = Annotated[int | Auto, OrAuto(Count)]
ScheduleOrAuto = Annotated[str | Auto, OrAuto(Literal.__getitem__(tuple(SCHEDULES)))]


class ModelSpec(FileSchema):
    """The model: `factory(**args)` returns it."""

    factory: FunctionName = Field(
        description="A function that returns the nn.Module. It is looked up from the folder where "
        "pipecut runs, then from that of the job file.",
        examples=['"train:build"'],
    )
    args: dict[str, Any] = Field(
        default={}, description="Keyword arguments of the factory.", examples=["{layers: 12}"]
    )
    opaque: list[str] | Literal["never"] = Field(
        default=[],
        description="Modules that are not traced, by patterns of their names: each stays whole on "
        "one stage and runs there as it is. What cannot be traced is added by itself; `never` "
        "forbids both.",
        examples=['["layers.*.moe"]'],
    )


class BatchSpec(FileSchema):
    """Samples per step and per microbatch."""

    global_: Count = Field(
        alias="global",
        description="Samples per optimizer step, over all replicas.",
        examples=["64"],
    )
    microbatch: CountOrAuto = Field(
        description="Samples per microbatch: what goes through the pipeline at once. More keep a "
        "device busier and leave fewer microbatches to fill the pipeline with. `auto` searches.",
        examples=["4"],
    )

    order: Literal["as-given", "balanced"] = Field(
        default="as-given",
        description="The order in which a step runs microbatches that are given as lists. "
        "`balanced` takes the order with the shortest predicted step, deals them evenly to "
        "replicas, and groups listed samples into microbatches with the least padding: the step "
        "is shorter, and sums of the loss and gradients round differently.",
        examples=["balanced"],
    )
    pad: dict[str, float] = Field(
        default={},
        description="What listed samples are made longer with, to the longest of their "
        "microbatch, for each input.",
        examples=["{input_ids: 0, labels: -100}"],
    )

    @model_validator(mode="after")
    def _fits(self) -> "BatchSpec":
        if self.microbatch is not AUTO and self.microbatch > self.global_:
            raise ValueError(
                f"microbatch {self.microbatch} is larger than the global batch {self.global_}"
            )
        return self


class PlacementSpec(FileSchema):
    """Where modules go, by patterns of their names: `*` stands for any letters.

    A module brings all modules within it.
    """

    together: list[Annotated[list[str], Field(min_length=1)]] = Field(
        default=[],
        description="Lists of patterns. All modules that a list matches go to one stage.",
        examples=['[["embed", "head"]]'],
    )
    never_cut: list[str] = Field(
        default=[],
        description="Patterns of modules through which no cut goes: each stays whole on a stage.",
        examples=['["layers.*"]'],
    )
    cut_before: list[str] = Field(
        default=[],
        description="Patterns of modules that begin a stage: what they need of other modules is on "
        "an earlier stage.",
        examples=['["decoder"]'],
    )
    on_stage: dict[str, Annotated[int, Field(ge=0)]] = Field(
        default={},
        description="Pattern to stage, counted from 0: the modules go there.",
        examples=["{head: 3}"],
    )
    layout: Annotated[str, AfterValidator(checked_layout)] | None = Field(
        default=None,
        description="The cut of a model of repeated layers as Megatron writes it: `E` is the "
        "embedding, `t` a layer, `L` the head; `|` ends a stage, `*3` repeats. It also says how "
        "many stages there are. The plan's notes have its price beside the best cut.",
        examples=["Ettt|(tt|)*2tL"],
    )


class JobSpec(FileSchema):
    """The job file: a model, its batch, and how to train it.

    Where a size may be `auto`, the compiler searches for the one with the shortest predicted step.
    """

    RENAMED: ClassVar[Mapping[str, Renamed]] = {
        "chunks": Renamed("stages_per_rank"),
        "optimizer_state": Renamed("shard_optimizer", {"fully_shard": True, "replicate": False}),
    }

    model: ModelSpec = Field(
        description="The function that builds the model.", examples=['{factory: "train:build"}']
    )
    inputs: FunctionName = Field(
        description="A function of a number of samples that returns a batch: a dictionary of "
        "tensors, which are the keyword arguments of the model's forward; what it holds may be "
        "nested in dicts, lists, tuples and dataclasses. The model is traced with it. Parameters "
        "that it takes by keyword only, as `def batch(samples, *, width)`, "
        "have the values of the factory's args of that name.",
        examples=['"train:batch"'],
    )
    batch: BatchSpec = Field(
        description="Samples per step and per microbatch.", examples=["{global: 64, microbatch: 4}"]
    )
    lengths: Literal["dynamic", "fixed"] | None = Field(
        default=None,
        description="Whether microbatches may have lengths of their own. The inputs function shows "
        "which dimensions follow a length: it takes it as a second parameter, `length`, whose "
        "default is the longest, as `def batch(samples, length=512)`. Where the model needs one "
        "length, `dynamic` refuses it; without the key the plan takes the longest only, and a note "
        "says why.",
        examples=["dynamic"],
    )
    loss: FunctionName | None = Field(
        default=None,
        description="A function of the model's result and the batch that returns the loss. Without "
        "it the model's own result is the loss, or has it as `loss`.",
        examples=['"train:loss"'],
    )
    reduction: Literal["samples", "tokens", "sum"] = Field(
        default="samples",
        description="What the loss is the mean over: microbatches weigh by their samples, or by "
        "the labels that the loss counts. With `sum` their losses are added up, as those of a loss "
        "that is a sum over samples.",
        examples=["tokens"],
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32",
        description="Precision of the parameters and of what is computed. With half precision the "
        "optimizer steps float32 masters.",
        examples=["bf16"],
    )
    optimizer: OptimizerByName = Field(
        default=OptimizerKeys(name="adamw"),
        description="The optimizer of torch.optim whose states the memory is planned for, and "
        "which `pipecut run` trains with.",
        examples=["sgd", '{name: adamw, lr: 3e-4, weight_decay: 0.1, no_decay: ["*.bias"]}'],
    )
    lr_schedule: LrScheduleKeys | None = Field(
        default=None,
        description="How the learning rate changes over the steps. Without it the rate stays.",
        examples=["{warmup: 100, decay: cosine, steps: 1000}"],
    )
    clip: Number = Field(
        default=0.0,
        description="The largest norm of all gradients together, to which `pipecut run` clips "
        "them; 0 for no limit.",
        examples=["1.0"],
    )
    eval: EvalKeys | None = Field(
        default=None,
        description="Batches whose loss `pipecut run` takes in eval mode.",
        examples=['{data: "train:validation", every: 100}'],
    )
    shard_optimizer: bool = Field(
        default=False,
        description="Whether each replica of a stage keeps masters and optimizer states of its "
        "share of the parameters' rows only, as ZeRO stage 1 does.",
        examples=["true"],
    )
    schedule: ScheduleOrAuto = Field(
        default="1f1b",
        description="The order of forwards and backwards on each rank.",
        examples=["zb-h1"],
    )
    stages_per_rank: Annotated[int, Field(ge=1, le=MOST_STAGES_PER_RANK)] = Field(
        default=2,
        description="Stages on each rank with "
        f"`schedule: {' or '.join(WITH_CHOSEN_STAGES_PER_RANK)}`. The other schedules have "
        "numbers of their own.",
        examples=["4"],
    )
    stages: CountOrAuto | None = Field(
        default=None,
        description="Stages that the model is cut into, over all ranks of a pipeline. Without it "
        "as many as fill the devices.",
        examples=["8"],
    )
    data_parallel: CountOrAuto = Field(
        default=1,
        description="Replicas of each stage, which divide the global batch between them.",
        examples=["2"],
    )
    recompute: Literal["auto", "never", "always"] = Field(
        default="auto",
        description="Whether a stage keeps what its forward saves for backward, or only its inputs "
        "and runs forward again. `auto` recomputes where it makes the slowest stage faster, or "
        "where nothing fits without.",
        examples=["never"],
    )
    compile: Literal["eager", "inductor"] = Field(
        default="eager",
        description="Whether stages run as written, or compiled by torch.compile.",
        examples=["inductor"],
    )
    weights: str | None = Field(
        default=None,
        description="A safetensors file, or a folder of them, with the model's state dict, from "
        "the folder of the job file. Without it parameters are initialised by the factory.",
        examples=['"model.safetensors"'],
    )
    seed: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Seed of the initial parameters and of what operators draw, such as dropout.",
        examples=["7"],
    )
    placement: PlacementSpec = Field(
        default=PlacementSpec(),
        description="Where modules must go.",
        examples=['{never_cut: ["layers.*"]}'],
    )

    @property
    def layout(self) -> Layout | None:
        """The layout of `placement:`."""
        text = self.placement.layout
        return None if text is None else parse_layout(text)

    def with_layout(self, text: str | None) -> "JobSpec":
        """The same job with another layout, or without one. Raises UserFileError."""
        if text is not None:
            try:
                checked_layout(text)
            except ValueError as error:
                raise UserFileError(f"--layout {error}") from None
        placement = self.placement.model_copy(update={"layout": text})
        return self.model_copy(update={"placement": placement})


@dataclass(frozen=True)
class Job:
    """A job file and the folder its functions are looked up from.

    `opaque` has modules that turned out to be untraceable, to the reason. `layout_is_option`: the
    layout is that of the command line.
    """

    path: Path
    spec: JobSpec
    layout_is_option: bool = False
    opaque: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The job file's folder."""
        return self.path.resolve().parent

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where the job's functions are looked up."""
        return Path.cwd(), self.folder

    @property
    def microbatch(self) -> int:
        """Samples per microbatch, once it is decided."""
        size = self.spec.batch.microbatch
        assert size is not AUTO
        return size

    def with_layout(self, text: str) -> "Job":
        """The same job with a layout, or NO_LAYOUT, in place of its own. Raises UserFileError."""
        spec = self.spec.with_layout(text if text != NO_LAYOUT else None)
        return replace(self, spec=spec, layout_is_option=True)

    def with_microbatch(self, microbatch: int) -> "Job":
        """The same job with another number of samples a microbatch."""
        batch = self.spec.batch.model_copy(update={"microbatch": microbatch})
        return replace(self, spec=self.spec.model_copy(update={"batch": batch}))

    @property
    def opaque_patterns(self) -> tuple[str, ...]:
        """What model.opaque names."""
        named = self.spec.model.opaque
        return () if isinstance(named, str) else tuple(named)

    def with_opaque(self, module: str, reason: str) -> "Job":
        """The same job with one more module that is not traced."""
        return replace(self, opaque={**self.opaque, module: reason})


def location_in_job(path: Path, key: str) -> str:
    """`file:line:column` of a key of a job file, which may have it under its old name."""
    old = [name for name, renamed in JobSpec.RENAMED.items() if renamed.key == key]
    places = (position_of(path, name, KEY) for name in (key, *old))
    # A key that is not there is at the top.
    line, column = next((place for place in places if place != TOP), TOP)
    return f"{path}:{line}:{column}"


def _check_minimum(job: Job) -> None:
    """Raises UserFileError where the learning rate would fall to more than it is."""
    schedule, full = job.spec.lr_schedule, learning_rate(job.spec.optimizer.in_plan)
    if schedule is not None and schedule.minimum > full:
        raise UserFileError(
            f"{location_of(job.path, 'lr_schedule', 'minimum')}: lr_schedule.minimum: "
            f"{schedule.minimum:g} is more than the learning rate, {full:g}; give less, or a "
            "larger lr in optimizer:"
        )


def read_job(path: Path, layout: str | None = None) -> Job:
    """The job of a file, with a `layout` in place of its own. Raises UserFileError."""
    job = Job(path, read_document(path, JobSpec))
    job = job if layout is None else job.with_layout(layout)
    functions: dict[tuple[str, ...], str | None] = {
        ("model", "factory"): job.spec.model.factory,
        ("inputs",): job.spec.inputs,
        ("loss",): job.spec.loss,
        ("eval", "data"): job.spec.eval.data if job.spec.eval is not None else None,
    }
    for location, name in functions.items():
        if name is not None:
            find_function(name, job.folders, location_of(path, *location))
    check_arguments(path, job.spec.optimizer)
    _check_minimum(job)
    return job
