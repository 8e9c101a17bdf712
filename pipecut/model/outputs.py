"""The tensors that a model returns beside its loss, by name: `logits`, `hidden_states.0`."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from pipecut.errors import RunError


class Outputs(dict[str, torch.Tensor]):
    """Outputs by name; a name in `left_out` raises RunError with the reason."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], left_out: Mapping[str, str]) -> None:
        super().__init__(tensors)
        self.left_out = left_out

    def __missing__(self, name: str) -> torch.Tensor:
        if name in self.left_out:
            raise RunError(
                f"the model's output '{name}' cannot be handed out: {self.left_out[name]}"
            )
        raise KeyError(name)


@dataclasses.dataclass(frozen=True)
class NamedOutputs:
    """Tensors of a model's result by name; by name too, why another part of it is left out."""

    tensors: dict[str, torch.Tensor]
    left_out: dict[str, str]


def outputs_of(output: Any, loss: torch.Tensor | None) -> NamedOutputs:
    """Every tensor in a model's result but the loss.

    A tensor by itself is `output`; members of a tuple are `output.0` and so on, those of a dict
    have their own names.
    """
    tensors: dict[str, torch.Tensor] = {}
    left_out: dict[str, str] = {}

    def walk(name: str, value: Any) -> None:
        if value is None or value is loss:
            return
        members = _members(value)
        if isinstance(value, torch.Tensor):
            tensors[name] = value
        elif members is not None:
            for part, member in members:
                walk(f"{name}.{part}", member)
        elif isinstance(value, bool | int | float | str):
            left_out[name] = f"it is {value!r} whatever the batch, no tensor"
        else:
            left_out[name] = (
                f"it is a {type(value).__name__}; have the model return the tensors in it"
            )

    members = _members(output)
    if members is None and not isinstance(output, torch.Tensor) and hasattr(output, "__dict__"):
        members = iter(vars(output).items())
    if members is None or isinstance(output, list | tuple) and not hasattr(output, "_fields"):
        walk("output", output)
        return NamedOutputs(tensors, left_out)
    for part, member in members:
        walk(part, member)
    return NamedOutputs(tensors, left_out)


def loss_in(output: Any) -> torch.Tensor | None:
    """The scalar that a model's result is, or has as `loss`, or as first member of a tuple."""
    loss = output
    if isinstance(output, Mapping):
        loss = output.get("loss")
    elif isinstance(output, list | tuple) and not hasattr(output, "loss"):
        loss = output[0] if output else None
    elif not isinstance(output, torch.Tensor):
        loss = getattr(output, "loss", None)
    return loss if isinstance(loss, torch.Tensor) and loss.dim() == 0 else None


def _members(value: Any) -> Iterator[tuple[str, Any]] | None:
    """Names and members of a structure; None for any other value."""
    if isinstance(value, Mapping):
        return ((str(key), member) for key, member in value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return zip(value._fields, value, strict=True)
    if isinstance(value, list | tuple):
        return ((str(index), member) for index, member in enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    return None
