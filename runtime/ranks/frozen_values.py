"""Frozen parameters that a checkpoint leaves out: they are the plan's own, and are compared.

A checkpoint has a digest of each. A rank that goes on from it fills them as for a new training, and
refuses values that are others than those that the training had.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import torch

from pipecut.errors import CheckpointError
from pipecut.plan.schema import Stage


def digest_of(value: torch.Tensor) -> str:
    """A digest of a tensor's dtype, shape and bytes."""
    flat = value.detach().to("cpu").contiguous().reshape(-1)
    digest = hashlib.sha256(f"{value.dtype}{list(value.shape)}".encode())
    digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass
class Digests:
    """Digests of parameters, each made anew where its values were written since."""

    made: dict[tuple[str, int, int], str] = field(default_factory=dict)

    def of(self, parameters: Mapping[str, torch.Tensor]) -> dict[str, str]:
        """Of each, by name."""
        return {name: self._of(name, tensor) for name, tensor in parameters.items()}

    def _of(self, name: str, tensor: torch.Tensor) -> str:
        key = (name, tensor.data_ptr(), tensor._version)
        if key not in self.made:
            self.made[key] = digest_of(tensor)
        return self.made[key]


def with_only(names: Collection[str], stages: Iterable[Stage]) -> list[Stage]:
    """The stages with those of their parameters that have these names, and without buffers."""
    return [
        stage.model_copy(
            update={
                "parameters": [p for p in stage.parameters if p.names[0] in names],
                "buffers": [],
            }
        )
        for stage in stages
    ]


def refuse_other_values(
    where: str, digests: Mapping[str, str], values: Mapping[str, torch.Tensor], origin: str
) -> None:
    """Raises CheckpointError where a frozen parameter is another than the training had.

    `values` come from `origin`.
    """
    for name, digest in digests.items():
        if name in values and digest_of(values[name]) != digest:
            raise CheckpointError(
                f"{where} has trained parameters alone, and the frozen {name} that {origin} gives "
                "is not the one that they were trained with; compile with the weights, seed and "
                "precision of that training"
            )
