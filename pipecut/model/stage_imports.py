"""What a stage's code imports of the user's: it is found as it was when the plan was compiled."""

import ast
from collections.abc import Iterator
from contextlib import contextmanager

from pipecut.errors import UserFileError
from pipecut.model.functions import function_of_plan
from pipecut.plan.schema import ModelRef

# What the code of every stage may import.
STAGES_OWN = ("torch", "pathlib", "safetensors")


@contextmanager
def importing(source: bytes, file: str, model: ModelRef) -> Iterator[None]:
    """Around the run of a stage's code. Raises UserFileError where an import of it fails.

    The model's own module is imported first: it may say where others lie.
    """
    others = [name for name in _imported(source) if name.partition(".")[0] not in STAGES_OWN]
    if others:
        function_of_plan(model.factory, model)
    try:
        yield
    except ImportError as error:
        raise UserFileError(
            f"{file} calls the model's own code, from {', '.join(others)}, which cannot be "
            f"imported here: {error}; give --code the folder that it was moved to"
        ) from error


def _imported(source: bytes) -> list[str]:
    return [
        node.module
        for node in ast.parse(source).body
        if isinstance(node, ast.ImportFrom) and node.module
    ]
