"""What a number of a plan may be, so that no sum or product overflows or is not a number."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# The limits are far above what any machine has: an edited plan may say anything.
Seconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=1e18, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, le=1e30, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=0, le=2**60)]
Signed = Annotated[int, Field(ge=-(2**60), le=2**60)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**31)]
Positive = Annotated[int, Field(ge=1, le=2**31)]
# A flag or number of a batch, the same for every batch.
Constant = bool | int | float | str | None


def same_constant(value: object, other: object) -> bool:
    """Whether two constants are alike in type and value: 0.0 is not -0.0, and nan is nan."""
    return type(value) is type(other) and repr(value) == repr(other)


class PlanModel(BaseModel):
    """Base of the schema: immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)
