"""What a rank reads of itself in its environment. Imports no torch, since the launcher sets it."""

import os

from pipecut.errors import UserFileError

# A file with a host per line, or hosts separated by commas, in the order of the plan's nodes.
HOSTS = "PIPECUT_HOSTS"
# The file that the ranks of one machine meet at, set by whoever starts them.
STORE = "PIPECUT_STORE"


def number_in_environment(name: str, default: int) -> int:
    """RANK, WORLD_SIZE and the like. Raises UserFileError where the value is no number from 0."""
    text = os.environ.get(name, str(default))
    if not text.isdigit():
        raise UserFileError(f"{name}={text} in the environment: must be a number; torchrun sets it")
    return int(text)
