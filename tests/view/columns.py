"""What a script reads out of a column."""

import base64
from array import array

from pipecut.view.columns import CODES, Column


def numbers(column: Column) -> list[int]:
    """The integers of a column, on a little-endian machine."""
    return array(CODES[column.bytes], base64.b64decode(column.data)).tolist()
