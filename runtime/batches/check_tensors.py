"""A global batch as the user gives it: tensors by name, or said what it is instead."""

from collections.abc import Collection, Mapping
from typing import Any

import torch

from pipecut.errors import RunError

REMEDIES = {
    "ndarray": "make it one with torch.from_numpy",
    "NoneType": "leave it out of the model's inputs, and compile again",
}


def check_tensors(batch: Mapping[Any, Any], here: str, constants: Collection[str] = ()) -> None:
    """Raises RunError, which begins with `here`, for what is no tensor under a name, but for the plan's `constants`."""
    for name, value in batch.items():
        if not isinstance(name, str):
            raise RunError(f"{here}: the batch has a key {name!r}; keys are names of inputs")
        if name in constants:
            continue
        if not isinstance(value, torch.Tensor):
            kind = type(value).__name__
            remedy = REMEDIES.get(kind, "make it one with torch.as_tensor")
            raise RunError(f"{here}: input '{name}' is a {kind}, it must be a tensor; {remedy}")
        if value.layout is not torch.strided:
            raise RunError(f"{here}: input '{name}' is {value.layout}; give it with .to_dense()")
