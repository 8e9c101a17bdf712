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
from pipecut.runtime.gradients.parameters import RankParameter


def digest_of(value: torch.Tensor) -> str:
    """A digest of a tensor's dtype, shape and bytes."""
    flat = value.detach().to("cpu").contiguous().reshape(-1)
    digest = hashlib.sha256(f"{value.dtype}{list(value.shape)}".encode())
    digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass
class Digests:
    """Digests of parameters, each made anew where its values were written since."""

    known: dict[tuple[str, int, int], str] = field(default_factory=dict)

    def of(self, parameters: Iterable[RankParameter]) -> dict[str, str]:
        """By first name."""
        return {parameter.name: self._of(parameter) for parameter in parameters}

    def _of(self, parameter: RankParameter) -> str:
        tensor = parameter.model
        key = (parameter.name, tensor.data_ptr(), tensor._version)
        if key not in self.known:
            self.known[key] = digest_of(tensor)
        return self.known[key]


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
