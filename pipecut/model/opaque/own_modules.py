"""The model's own modules in a stage whose code calls them as they are."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from pipecut.errors import PlanError
from pipecut.model.building.module_tensors import replace_in_attributes
from pipecut.model.building.on_meta import build_on_meta
from pipecut.model.functions import calling, find_function
from pipecut.model.precision import cast_model


def put_own_modules(
    stage: nn.Module,
    factory: str,
    args: dict[str, Any],
    names: Sequence[str],
    *,
    seed: int,
    precision: str,
    device: torch.device | str | None = None,
) -> None:
    """Put modules of the model that `factory(**args)` builds into a stage, under their names.

    Their parameters get memory on the device, uninitialised: load_state_dict fills it. Buffers have
    their first values. Raises UserFileError where the factory is not found or fails, PlanError
    where its model has no such module.
    """
    function = find_function(factory, (), "this stage's code")
    with calling(factory):
        model = build_on_meta(lambda: function(**args), seed)
    cast_model(model.train(), precision)
    modules = dict(model.named_modules(remove_duplicate=False))
    missing = [name for name in names if name not in modules]
    if missing:
        raise PlanError(
            f"the model of {factory} has no module '{missing[0]}', which the plan runs as it is; "
            "compile again"
        )
    made: dict[int, nn.Parameter] = {}
    for name in names:
        _allocate(modules[name], device, made)
        path, _, last = name.rpartition(".")
        stage.get_submodule(path).add_module(last, modules[name])


def _allocate(
    module: nn.Module, device: torch.device | str | None, made: dict[int, nn.Parameter]
) -> None:
    """Give parameters memory; `made` has, by id of those on meta, what stands for each."""
    for owner in module.modules():
        for name, meta in owner._parameters.items():
            if meta is None or not meta.is_meta:
                continue
            if id(meta) not in made:
                empty = torch.empty(meta.shape, dtype=meta.dtype, device=device)
                made[id(meta)] = nn.Parameter(empty, requires_grad=meta.requires_grad)
                for hook in (meta._backward_hooks or {}).values():
                    made[id(meta)].register_hook(hook)  # type: ignore[no-untyped-call]
            owner._parameters[name] = made[id(meta)]
        for name, buffer in owner._buffers.items():
            owner._buffers[name] = None if buffer is None else buffer.to(device)
    # Recurrent layers, for one, keep their parameters in lists as well.
    replace_in_attributes(module, lambda tensor: made.get(id(tensor), tensor))
