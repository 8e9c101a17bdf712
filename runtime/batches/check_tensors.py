"""A global batch as the user passes it: tensors by name; anything else is refused."""

from collections.abc import Collection, Mapping
from typing import Any

import torch

from pipecut.errors import RunError

REMEDIES = {
    "ndarray": "make it one with torch.from_numpy",
    "NoneType": "leave it out of the model's inputs, and compile again",
}


def check_tensors(batch: Mapping[Any, Any], where: str, constants: Collection[str] = ()) -> None:
    """Raise RunError for a key that is no name or a value that is no tensor.

    It begins with `where`. A list has a tensor for each microbatch. The plan's `constants` may be
    anything.
    """
    for name, value in batch.items():
        if not isinstance(name, str):
            raise RunError(f"{where}: the batch has a key {name!r}; keys are names of inputs")
        if name in constants:
            continue
        listed = isinstance(value, list | tuple)
        if listed and not all(isinstance(tensor, torch.Tensor) for tensor in value):
            kind = type(value).__name__
            raise RunError(
                f"{where}: input '{name}' is a {kind}, it must be a tensor, or list one for each "
                "microbatch; make it one with torch.as_tensor"
            )
        for tensor in value if listed else [value]:
            _check_tensor(name, tensor, where)


def _check_tensor(name: str, value: Any, where: str) -> None:
    if not isinstance(value, torch.Tensor):
        kind = type(value).__name__
        remedy = REMEDIES.get(kind, "make it one with torch.as_tensor")
        raise RunError(f"{where}: input '{name}' is a {kind}, it must be a tensor; {remedy}")
    if value.layout is not torch.strided:
        raise RunError(f"{where}: input '{name}' is {value.layout}; give it with .to_dense()")
