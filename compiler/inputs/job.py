"""The job file to typed values, and the user's functions it names."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, GetCoreSchemaHandler, model_validator
from pydantic_core import core_schema

from pipecut.compiler.inputs.auto import AUTO, Auto
from pipecut.compiler.inputs.document import FileSchema, location_of, read_document
from pipecut.compiler.schedules.registry import SCHEDULES
from pipecut.model.functions import find_function


@dataclass(frozen=True)
class OrAuto:
    """Marks a field that is of a type or `auto`, which it becomes AUTO."""

    inner: Any

    def __get_pydantic_core_schema__(
        self, _source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """The type's own schema, so that its messages stay, behind a check for `auto`."""
        inner = handler.generate_schema(self.inner)
        return core_schema.no_info_wrap_validator_function(_or_auto, inner)


def _or_auto(value: object, handler: Callable[[object], Any]) -> Any:
    return AUTO if value in (AUTO, AUTO.value) else handler(value)


CountOrAuto = Annotated[int | Auto, OrAuto(Annotated[int, Field(ge=1)])]
ScheduleOrAuto = Annotated[str | Auto, OrAuto(Literal.__getitem__(tuple(SCHEDULES)))]
FUNCTION = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"


class ModelSpec(FileSchema):
    """`factory(**args) -> nn.Module`."""

    factory: str = Field(pattern=FUNCTION)
    args: dict[str, Any] = {}


class BatchSpec(FileSchema):
    """Samples per optimizer step and per microbatch, which may be AUTO."""

    global_: int = Field(alias="global", ge=1)
    microbatch: CountOrAuto

    @model_validator(mode="after")
    def _fits(self) -> "BatchSpec":
        if self.microbatch is not AUTO and self.microbatch > self.global_:
            raise ValueError(
                f"microbatch {self.microbatch} is larger than the global batch {self.global_}"
            )
        return self


class PlacementSpec(FileSchema):
    """Where modules go, by FQN pattern: `*` stands for any letters, and a module brings all within it."""

    together: list[Annotated[list[str], Field(min_length=1)]] = []
    never_cut: list[str] = []
    cut_before: list[str] = []
    on_stage: dict[str, Annotated[int, Field(ge=0)]] = {}


class JobSpec(FileSchema):
    """The job file. `stages`, `data_parallel`, `batch.microbatch` and `schedule` may be auto.

    Microbatches weigh by their samples, or by the labels that their loss is the mean over (`reduction: tokens`).
    With `shard_optimizer: true` each replica of a stage has masters and optimizer states of its rows of parameters alone.
    `stages` counts all of them; of the interleaved schedule each device has `stages_per_rank`, of the v-shaped one two.
    """

    model: ModelSpec
    inputs: str = Field(pattern=FUNCTION)
    batch: BatchSpec
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    optimizer: Literal["adamw", "adam", "sgd", "momentum"] = "adamw"
    shard_optimizer: bool = False
    schedule: ScheduleOrAuto = "1f1b"
    stages_per_rank: int = Field(default=2, ge=1, le=64)
    weights: str | None = None
    loss: str | None = Field(default=None, pattern=FUNCTION)
    compile: Literal["eager", "inductor"] = "eager"
    reduction: Literal["samples", "tokens"] = "samples"
    seed: int = Field(default=0, ge=0)
    recompute: Literal["auto", "never", "always"] = "auto"
    stages: CountOrAuto | None = None
    data_parallel: CountOrAuto = 1
    placement: PlacementSpec = PlacementSpec()


@dataclass(frozen=True)
class Job:
    """A job file and the folder its functions are looked up from."""

    path: Path
    spec: JobSpec

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

    def with_microbatch(self, microbatch: int) -> "Job":
        """The same job with another number of samples a microbatch."""
        batch = self.spec.batch.model_copy(update={"microbatch": microbatch})
        return Job(self.path, self.spec.model_copy(update={"batch": batch}))


def read_job(path: Path) -> Job:
    """Raises UserFileError."""
    job = Job(path, read_document(path, JobSpec))
    functions: dict[tuple[str, ...], str | None] = {
        ("model", "factory"): job.spec.model.factory,
        ("inputs",): job.spec.inputs,
        ("loss",): job.spec.loss,
    }
    for location, name in functions.items():
        if name is not None:
            find_function(name, job.folders, location_of(path, *location))
    return job
