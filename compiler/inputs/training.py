"""How the job file says that a training goes: the learning rate over the steps, evaluations."""

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from pipecut.compiler.inputs.document.schema import FileSchema, FunctionName, Written
from pipecut.compiler.inputs.units import number_in
from pipecut.plan.schema import EvalData, LrSchedule
from pipecut.plan.schema.training import Decay

Count = Annotated[int, Field(ge=1)]
Number = Annotated[
    float,
    BeforeValidator(number_in),
    Field(ge=0, allow_inf_nan=False),
    Written("number of 0 or more"),
]


class LrScheduleKeys(FileSchema):
    """The learning rate over the steps, by torch.optim.lr_scheduler: it grows in equal parts to
    the optimizer's `lr` in the first `warmup` steps, and falls to `minimum` until step `steps`.
    """

    warmup: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Steps in which the rate grows; the last of them has all of it.",
        examples=["100"],
    )
    decay: Decay = Field(
        default="constant", description="How it falls afterwards.", examples=["cosine"]
    )
    steps: Count | None = Field(
        default=None,
        description="Steps in all, those of the warm-up among them, after which the rate stays at "
        "its minimum. Needed unless the decay is constant.",
        examples=["1000"],
    )
    minimum: Number = Field(
        default=0.0, description="The learning rate in the end.", examples=["1e-5"]
    )

    @model_validator(mode="after")
    def _fits(self) -> "LrScheduleKeys":
        if self.decay == "constant":
            if self.steps is not None or self.minimum:
                raise ValueError(
                    "steps and minimum are for a rate that falls; give decay: cosine or linear"
                )
        elif self.steps is None:
            raise ValueError(f"decay: {self.decay} needs steps, such as steps: 1000")
        elif self.steps <= self.warmup:
            raise ValueError(f"steps {self.steps} must be more than those of the warm-up")
        return self

    @property
    def in_plan(self) -> LrSchedule:
        """As a plan has it."""
        return LrSchedule(**self.model_dump())


class EvalKeys(FileSchema):
    """Batches whose loss is taken in eval mode while `pipecut run` trains."""

    data: FunctionName = Field(
        description="A function that returns an iterable of batches of any size, the same on every "
        "rank.",
        examples=['"train:validation"'],
    )
    every: Count = Field(
        description="Steps between evaluations; there is one after the last step, too.",
        examples=["100"],
    )

    @property
    def in_plan(self) -> EvalData:
        """As a plan has it."""
        return EvalData(**self.model_dump())
