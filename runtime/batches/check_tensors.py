"""A global batch as the user passes it: tensors by name; anything else is refused."""

from collections.abc import Collection, Mapping
from typing import Any

import torch

from pipecut.errors import RunError
from pipecut.model.batch.nesting import kind_of

REMEDIES = {
    "ndarray": "make it one with torch.from_numpy",
    "NoneType": "leave it out of the model's inputs, and compile again",
    "str": "give numbers for it, as a tokenizer makes them",
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
        kind = kind_of(value)
        if kind not in (None, "list", "tuple"):
            raise RunError(
                f"{where}: input '{name}' is a {kind}, the plan was compiled for a tensor; "
                "compile with inputs that nest it likewise"
            )
        listed = kind is not None
        odd = [member for member in value if not isinstance(member, torch.Tensor)] if listed else []
        if odd:
            remedy = REMEDIES.get(type(odd[0]).__name__, "make it one with torch.as_tensor")
            raise RunError(
                f"{where}: input '{name}' is a {kind}, it must be a tensor, or list one for each "
                f"microbatch; {remedy}"
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
