"""AUTO: a size or a schedule that the search decides, written `auto` in the job file."""

from enum import Enum
from typing import Final, Literal


class Auto(Enum):
    """The type of AUTO, so that `value is AUTO` tells types apart."""

    AUTO = "auto"


AUTO: Final[Literal[Auto.AUTO]] = Auto.AUTO


def or_auto(value: int | str | Auto | None) -> int | Auto | None:
    """A size as a caller writes it: "auto" and 0 mean AUTO. Raises ValueError for other text."""
    if value == 0 or value == AUTO.value:
        return AUTO
    if isinstance(value, str):
        raise ValueError(f"{value!r} is neither a number nor 'auto'")
    return value
