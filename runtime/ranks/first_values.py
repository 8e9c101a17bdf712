"""First values of a rank's parameters: from safetensors by FQN, or as the unsplit model would have them."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from pipecut.errors import RunError
from pipecut.model.build import initial_parameters, meta_model
from pipecut.model.functions import find_function
from pipecut.model.weights import stored_values
from pipecut.plan.schema import Plan, Stage
from pipecut.plan.sources import changed_sources
from pipecut.runtime.ranks.same_model import refuse_other_parameters

log = logging.getLogger("pipecut")


def fill(
    plan: Plan, stages: list[Stage], tensors: Mapping[str, torch.Tensor], rank: int = 0
) -> None:
    """Fill the parameters of some stages, and the buffers that the weights have; `tensors` has them by every name.

    A value takes the place of a tensor's own memory where it can, so that none is held twice. Raises RunError for a
    parameter that gets none, for weights of another model, and for a model that has other parameters than the plan.
    """
    filled: set[int] = set()
    values = _stored(plan, stages) if plan.model.weights else _drawn(plan, stages, rank)
    for name, value in values:
        target = tensors[name]
        if id(target) not in filled:
            filled.add(id(target))
            _put(name, target, value)
    refuse_unfilled(
        plan, stages, {name for name, tensor in tensors.items() if id(tensor) in filled}, tensors
    )


def refuse_unfilled(
    plan: Plan, stages: list[Stage], filled: set[str], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Raises RunError with the name of what would keep whatever its memory held."""
    buffers = {name for stage in stages for held in stage.buffers for name in held.names}
    empty = sorted(set(tensors) - filled - buffers)
    if empty:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        where = plan.model.weights or plan.model.factory
        raise RunError(
            f"{empty[0]}{more} of the plan's stages would have no values: {where} has none; compile again"
        )


def warn_of_changes(plan: Plan) -> None:
    """Say which of the model's files changed since the plan was compiled: the plan runs what they were."""
    changed = changed_sources(plan.model)
    if changed:
        verb = "have" if len(changed) > 1 else "has"
        log.warning(
            "%s %s changed since the plan was compiled, which runs the model as it was; compile again if the model is another",
            ", ".join(changed),
            verb,
        )


def _stored(plan: Plan, stages: list[Stage]) -> Iterator[tuple[str, torch.Tensor]]:
    assert plan.model.weights is not None
    for held, tensor in stored_values(Path(plan.model.weights), plan, stages):
        yield held.names[0], tensor


def _drawn(plan: Plan, stages: list[Stage], rank: int) -> Iterator[tuple[str, torch.Tensor]]:
    reference = plan.model
    wanted = {name for stage in stages for held in stage.parameters for name in held.names}
    factory = find_function(reference.factory, map(Path, reference.folders), "plan.yaml")
    meta = meta_model(lambda: factory(**reference.args), reference.seed)
    refuse_other_parameters(plan, meta)
    if not wanted:
        return
    values, extra = initial_parameters(
        lambda: factory(**reference.args), reference.seed, wanted, meta
    )
    if extra:
        log.warning(
            "rank %d: %d parameters of other ranks were held while this rank's were drawn from them",
            rank,
            extra,
        )
    for name in list(values):
        yield name, values.pop(name)


@torch.no_grad()
def _put(name: str, target: torch.Tensor, value: torch.Tensor) -> None:
    if value.shape != target.shape:
        raise RunError(
            f"{name}: the plan has shape {list(target.shape)}, its value {list(value.shape)}; compile again"
        )
    alone = (
        value.untyped_storage().nbytes() == value.numel() * value.element_size()
        and value.untyped_storage().resizable()
    )
    if isinstance(target, torch.nn.Parameter) and alone and _alike(target, value):
        target.data = value
    else:
        target.copy_(value)


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return (
        one.dtype == other.dtype and one.device == other.device and one.stride() == other.stride()
    )
