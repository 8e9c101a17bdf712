"""How long each part of a run may take, read from the environment.

| variable | seconds | limit of |
|---|---|---|
| PIPECUT_TIMEOUT | 300 | one transfer, in gloo and NCCL |
| PIPECUT_STALL_TIMEOUT | 240 | no rank makes progress |
| PIPECUT_SILENCE_TIMEOUT | 30 | a rank of torchrun sends no sign of life |
| PIPECUT_START_TIMEOUT | 3600 | values are drawn or read, stages compiled and warmed |
| PIPECUT_SAVE_TIMEOUT | 3600 | one checkpoint is written |
"""

import math
import os
from datetime import timedelta

from pipecut.errors import UserFileError

# A year: longer timeouts overflow torch's C++ side.
LONGEST = 86400.0 * 365


def seconds_of(variable: str, default: float) -> float:
    """A number of seconds from the environment. Raises UserFileError for anything else."""
    text = os.environ.get(variable)
    if text is None or not text.strip():
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST:
        raise UserFileError(
            f"{variable}={text} in the environment: must be a number of seconds above 0, such as "
            f"{default:g}; or unset it"
        )
    return seconds


def transfer_timeout() -> timedelta:
    """The limit of one transfer: long enough for a slow first step, too short to seem a hang."""
    return timedelta(seconds=seconds_of("PIPECUT_TIMEOUT", 300))


def stall_timeout() -> float:
    """Seconds without any progress after which a rank stands still."""
    return seconds_of("PIPECUT_STALL_TIMEOUT", 240)


def silence_timeout() -> float:
    """Seconds without a sign of life after which a rank of another host is lost."""
    return seconds_of("PIPECUT_SILENCE_TIMEOUT", 30)


def start_timeout() -> float:
    """Seconds that a rank may take to start: to fill, compile and warm its stages."""
    return seconds_of("PIPECUT_START_TIMEOUT", 3600)


def save_timeout() -> float:
    """Seconds that a rank may take to write a checkpoint."""
    return seconds_of("PIPECUT_SAVE_TIMEOUT", 3600)
