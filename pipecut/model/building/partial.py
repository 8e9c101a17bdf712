"""Build a model of which only some parameters keep their contents.

They get the very values that the whole model would have got from the same seed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from pipecut.model.building.numbering import counted_parameters
from pipecut.model.building.reclaimable_storage import ContentsAreRead, ReclaimableStorage

Factory = Callable[[], nn.Module]


@dataclass(frozen=True)
class PartialBuild:
    """Values by name, and how many more parameters had to be kept because values depend on them."""

    values: dict[str, torch.Tensor]
    extra: int


def build_partly(
    factory: Factory,
    seed: int,
    kept: frozenset[int],
    values_of: Callable[[nn.Module], dict[str, torch.Tensor]],
) -> PartialBuild:
    """Build with only the parameters of these numbers kept; `values_of` names the wanted tensors.

    Builds again, with more parameters kept, as long as a wanted value depends on lost contents.
    """
    keep, draw_all = set(kept), False
    while True:
        storage = ReclaimableStorage(draw_all)

        def manage(
            parameter: nn.Parameter, number: int, storage: ReclaimableStorage = storage
        ) -> nn.Parameter:
            if number not in keep and not is_lazy(parameter):
                storage.manage(parameter, number)
            return parameter

        try:
            with torch.random.fork_rng(devices=[]), counted_parameters(manage), storage:
                torch.manual_seed(seed)
                values = values_of(factory())
        except ContentsAreRead:
            draw_all = True
            continue
        sources = (storage.depends_on_lost(value) for value in values.values())
        lost = frozenset(storage.read).union(*sources)
        if lost <= keep:
            return PartialBuild(values, len(keep) - len(kept))
        keep.update(lost)
