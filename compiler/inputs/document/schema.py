"""What all file schemas share, and what they say of their keys beside the types."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import core_schema

from pipecut.compiler.inputs.auto import AUTO
from pipecut.compiler.inputs.units import parse_bytes, parse_flops, parse_rate, parse_seconds
from pipecut.quantities import show_bytes, show_seconds


@dataclass(frozen=True)
class Renamed:
    """A key that has another name now; the old one is accepted for one version, with a warning.

    `values` maps old values to new ones; a value that it lacks stays as it is.
    """

    key: str
    values: Mapping[Any, Any] = field(default_factory=dict)


class FileSchema(BaseModel):
    """Base of all file schemas: immutable, and an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    # Old key -> what it is called now.
    RENAMED: ClassVar[Mapping[str, Renamed]] = {}


@dataclass(frozen=True)
class Written:
    """How a value is written in the file, and how one is shown, for the reference of its keys."""

    text: str
    show: Callable[[Any], str] = str


@dataclass(frozen=True)
class OrAuto:
    """Marks a field that has a type or is `auto`, which becomes AUTO."""

    inner: Any

    def __get_pydantic_core_schema__(
        self, _source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """The type's own schema, so that its messages stay, behind a check for `auto`."""
        inner = handler.generate_schema(self.inner)
        return core_schema.no_info_wrap_validator_function(_or_auto, inner)


def _or_auto(value: object, handler: Callable[[object], Any]) -> Any:
    return AUTO if value in (AUTO, AUTO.value) else handler(value)


FunctionName = Annotated[
    str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"), Written("module:function")
]
Bytes = Annotated[int, BeforeValidator(parse_bytes), Written("bytes with a unit", show_bytes)]
Rate = Annotated[float, BeforeValidator(parse_rate), Written("bytes or bits per second")]
Seconds = Annotated[
    float, BeforeValidator(parse_seconds), Written("time with a unit", show_seconds)
]
Flops = Annotated[float, BeforeValidator(parse_flops), Written("FLOP/s with a unit")]
Fraction = Annotated[float, Field(gt=0, le=1)]
