"""Numbers of many events as columns: a page of 32 ranks and 512 microbatches stays small.

A column is the base64 of unsigned little-endian integers, which a script reads into a typed array.
"""

import base64
import sys
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

# Bytes of an integer, and the array's code of it.
CODES = {1: "B", 2: "H", 4: "I"}


@dataclass(frozen=True)
class Column:
    """`bytes` of each integer, 1, 2 or 4, and the base64 of all of them."""

    bytes: int
    data: str


def column(numbers: Iterable[int]) -> Column:
    """The smallest column that holds these numbers. Raises OverflowError beyond 32 bits."""
    values = list(numbers)
    largest = max(values, default=0)
    size = next((size for size in CODES if largest < 256**size), 4)
    packed = array(CODES[size], values)
    if sys.byteorder == "big":
        packed.byteswap()
    return Column(size, base64.b64encode(packed.tobytes()).decode())
