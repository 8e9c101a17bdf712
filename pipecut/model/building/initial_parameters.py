"""First values of some of a model's parameters, without the others in memory."""

import torch
from torch import nn

from pipecut.model.building.numbering import number_of
from pipecut.model.building.on_meta import meta_model
from pipecut.model.building.partial import Factory, PartialBuild, build_partly


def initial_parameters(
    factory: Factory, seed: int, wanted: set[str], meta: nn.Module | None = None
) -> PartialBuild:
    """The parameters named in `wanted`, with the values that the whole model gets from `seed`.

    `meta` is what `meta_model` returns, where the caller has it.
    """
    named = (meta or meta_model(factory, seed)).named_parameters(remove_duplicate=False)
    kept = frozenset(number_of(parameter) for name, parameter in named if name in wanted)

    def values_of(model: nn.Module) -> dict[str, torch.Tensor]:
        return {n: p.data for n, p in model.named_parameters(remove_duplicate=False) if n in wanted}

    return build_partly(factory, seed, kept, values_of)
