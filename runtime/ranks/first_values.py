"""First values of a rank's parameters: from safetensors by name, or those of the unsplit model."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from pipecut.errors import RunError
from pipecut.model.building.initial_parameters import initial_parameters
from pipecut.model.building.on_meta import meta_model
from pipecut.model.functions import function_of_plan
from pipecut.model.weights import drawn_names, stored_values
from pipecut.plan.schema import Plan, Stage
from pipecut.plan.sources import changed_sources
from pipecut.runtime.ranks.agree.same_model import refuse_other_parameters
from pipecut.runtime.ranks.frozen_values import with_only

log = logging.getLogger("pipecut")


def fill(
    plan: Plan, stages: list[Stage], tensors: Mapping[str, torch.Tensor], rank: int = 0
) -> None:
    """Fill the parameters of some stages, and the buffers that the weights have.

    `tensors` has the tensors by each of their names. A value replaces a tensor's own memory where
    it can, so that none is held twice. Raises RunError for a parameter without a value, for weights
    of another model, and for a model with other parameters than the plan.
    """
    filled: set[int] = set()
    for name, value in _values(plan, stages, rank):
        target = tensors[name]
        if id(target) not in filled:
            filled.add(id(target))
            _put(name, target, value)
    names = {name for name, tensor in tensors.items() if id(tensor) in filled}
    refuse_unfilled(plan, stages, names, tensors)


def _values(plan: Plan, stages: list[Stage], rank: int) -> Iterator[tuple[str, torch.Tensor]]:
    """From the plan's weights, and from the factory where there are none for a parameter."""
    if not plan.model.weights:
        yield from _drawn(plan, stages, rank)
        return
    yield from _stored(plan, stages)
    by_factory = with_only(drawn_names(Path(plan.model.weights)), stages)
    if any(stage.parameters for stage in by_factory):
        yield from _drawn(plan, by_factory, rank)


def refuse_unfilled(
    plan: Plan, stages: list[Stage], filled: set[str], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Raises RunError with the name of a parameter that got no value."""
    buffers = {name for stage in stages for buffer in stage.buffers for name in buffer.names}
    unfilled = sorted(set(tensors) - filled - buffers)
    if unfilled:
        names = unfilled[0] + (f" and {len(unfilled) - 1} more" if len(unfilled) > 1 else "")
        source = plan.model.weights or plan.model.factory
        raise RunError(
            f"{names} of the plan's stages would have no values: {source} has none; compile again"
        )


def warn_of_changes(plan: Plan) -> None:
    """Warn of the model's files that changed since the plan was compiled: it runs the old ones."""
    changed = changed_sources(plan.model)
    if changed:
        verb = "have" if len(changed) > 1 else "has"
        log.warning(
            "%s %s changed since the plan was compiled, which runs the model as it was; "
            "compile again if the model is another",
            ", ".join(changed),
            verb,
        )


def _stored(plan: Plan, stages: list[Stage]) -> Iterator[tuple[str, torch.Tensor]]:
    assert plan.model.weights is not None
    for stored, tensor in stored_values(Path(plan.model.weights), plan, stages):
        yield stored.names[0], tensor


def _drawn(plan: Plan, stages: list[Stage], rank: int) -> Iterator[tuple[str, torch.Tensor]]:
    reference = plan.model
    wanted = {name for stage in stages for p in stage.parameters for name in p.names}
    factory = function_of_plan(reference.factory, reference)
    meta = meta_model(lambda: factory(**reference.args), reference.seed)
    refuse_other_parameters(plan, meta)
    if not wanted:
        return
    built = initial_parameters(lambda: factory(**reference.args), reference.seed, wanted, meta)
    if built.extra:
        log.warning(
            "rank %d: %d parameters of other ranks were held while this rank's were made from them",
            rank,
            built.extra,
        )
    for name in list(built.values):
        yield name, built.values.pop(name)


@torch.no_grad()
def _put(name: str, target: torch.Tensor, value: torch.Tensor) -> None:
    if value.shape != target.shape:
        planned, actual = list(target.shape), list(value.shape)
        raise RunError(f"{name}: the plan has shape {planned}, its value {actual}; compile again")
    storage = value.untyped_storage()
    fills_storage = storage.nbytes() == value.numel() * value.element_size()
    movable = fills_storage and storage.resizable() and _same_layout(target, value)
    if isinstance(target, torch.nn.Parameter) and movable:
        target.data = value
    else:
        target.copy_(value)


def _same_layout(first: torch.Tensor, second: torch.Tensor) -> bool:
    same_place = first.device == second.device and first.stride() == second.stride()
    return first.dtype == second.dtype and same_place
