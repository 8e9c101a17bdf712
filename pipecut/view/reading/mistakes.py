"""What is wrong with a file that was read, in short."""

from pydantic import ValidationError


def first_mistake(error: ValidationError) -> str:
    """Where the first wrong value is, and why."""
    mistake = error.errors()[0]
    return f"{'.'.join(map(str, mistake['loc'])) or 'the file'}: {mistake['msg']}"
