"""A rank's side of going on from a checkpoint: which one, what it reads, and what it puts back."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from pipecut.device.work import rng_state, set_rng_state
from pipecut.errors import CheckpointError
from pipecut.runtime.checkpoint import folder as checkpoint_folder
from pipecut.runtime.checkpoint.hosts import exchange, first_wrong
from pipecut.runtime.checkpoint.manifest import Manifest, read_manifest
from pipecut.runtime.checkpoint.optimizer_state import saved_states
from pipecut.runtime.checkpoint.put_back import put_back
from pipecut.runtime.checkpoint.rank_tensors import random_of_device
from pipecut.runtime.checkpoint.reading import WantedRows, read_tensors
from pipecut.runtime.checkpoint.resume import (
    changes,
    refuse_diverged,
    refuse_other_model,
    refuse_other_optimizer,
    refuse_trained,
)
from pipecut.runtime.gradients.loss_scale import LossScale
from pipecut.runtime.rank_model import RankModel
from pipecut.runtime.ranks.world import World

log = logging.getLogger("pipecut")
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, order=True)
class Key:
    """A checkpoint as machines compare it: its step, and the id of the save that wrote it."""

    step: int
    save_id: str


@dataclass(frozen=True)
class RestoreRequest:
    """What takes a checkpoint's states: see Pipeline.restore.

    `recipe` has what the plan does not know of the training: see resume.py.
    """

    folder: Path
    optimizer: torch.optim.Optimizer | None
    scheduler: Any
    data: Any
    recipe: Mapping[str, Any]


def find_checkpoint(world: World, folder: Path) -> Path | None:
    """The last checkpoint that every rank sees, or None. All ranks must call it together.

    Raises CheckpointError where the last one is damaged.
    """
    doing = "looking for a checkpoint"
    path, key, wrong = checkpoint_folder.latest(folder), None, None
    try:
        key = _key(path) if path is not None else None
    except CheckpointError as error:
        wrong = str(error)
    first_wrong(exchange(wrong, world.rank, world.size, doing), world.rank)
    if set(exchange(key, world.rank, world.size, doing)) == {key}:
        return path
    readable: dict[Key, Path] = {}
    for candidate in [folder] if path == folder else checkpoint_folder.checkpoints(folder):
        try:
            readable[_key(candidate)] = candidate
        except CheckpointError as error:
            log.warning("%s", error)
    seen_by_all = set(readable).intersection(
        *exchange(set(readable), world.rank, world.size, doing)
    )
    return readable[max(seen_by_all)] if seen_by_all else None


def restore(model: RankModel, scale: LossScale, request: RestoreRequest) -> Manifest:
    """Go on from the last checkpoint of a folder as Pipeline.restore says. Returns its manifest."""
    world, plan = model.world, model.plan
    path = find_checkpoint(world, request.folder)
    if path is None:
        raise _no_checkpoint(request.folder)
    manifest, where = read_manifest(path), str(path)
    refuse_other_model(where, plan, manifest)
    if request.optimizer is not None:
        kind = request.recipe.get("kind")
        refuse_other_optimizer(where, manifest, request.optimizer, kind)
    refuse_trained(where, plan, manifest)
    refuse_diverged(where, manifest)
    values = _read(model, path, manifest, request.optimizer)
    _check_random(path, values, world.device)
    model.take_frozen(where, manifest.frozen)
    notes = changes(manifest, plan, request.recipe)
    notes += put_back(
        where, values, model.parameters, model.stored_buffers, request.optimizer, manifest.groups
    )
    for note in notes if world.rank == 0 else ():
        log.warning("going on from %s: %s", path, note)
    if scale.used and manifest.training.loss_scale:
        scale.load_state_dict(_loss_scale(path, manifest.training.loss_scale))
    _set_random(world, values)
    _load(path, "scheduler", request.scheduler, manifest.training.scheduler)
    _load(path, "data", request.data, manifest.training.data)
    steps = manifest.step if manifest.training.steps is None else manifest.training.steps
    world.status.step = steps + 1
    return manifest


def _key(path: Path) -> Key:
    manifest = read_manifest(path)
    return Key(manifest.step, manifest.save)


def _no_checkpoint(folder: Path) -> CheckpointError:
    shared = " that all machines have" if checkpoint_folder.latest(folder) is not None else ""
    return CheckpointError(f"{folder} has no checkpoint{shared}; leave out --resume to begin anew")


def _read(
    model: RankModel, path: Path, manifest: Manifest, optimizer: torch.optim.Optimizer | None
) -> Tensors:
    """This rank's tensors of a checkpoint. Raises CheckpointError."""
    world = model.world
    states = saved_states(model.parameters, manifest.names if optimizer is not None else ())
    names: list[str] = []
    rows: dict[str, WantedRows] = {}
    for parameter in (p for p in model.parameters if p.name not in manifest.frozen):
        of_parameter = [f"parameter/{parameter.name}"]
        of_parameter += [f"optimizer/{state}/{parameter.name}" for state in states[parameter]]
        names += of_parameter
        if parameter.rows is not None:
            wanted = WantedRows(*parameter.rows, total=parameter.model.shape[0])
            rows |= dict.fromkeys(of_parameter, wanted)
    names += [f"buffer/{name}" for name in model.stored_buffers]
    # Random numbers go on where they were only where there are as many ranks.
    if manifest.training.ranks == world.size:
        random = [f"random/{world.rank}", random_of_device(world)]
        names += [name for name in random if name in manifest.names]
    return read_tensors(path, manifest, names, rows)


def _set_random(world: World, values: Tensors) -> None:
    state = values.get(f"random/{world.rank}")
    if state is not None:
        torch.set_rng_state(state)
    set_rng_state(world.device, values.get(random_of_device(world)))


def _check_random(path: Path, values: Tensors, device: torch.device) -> None:
    """Raise CheckpointError where a value is no state of a random number generator."""
    for name, value in values.items():
        kind = name.partition("/")[0]
        if kind == "random":
            size = torch.get_rng_state().numel()
        elif kind.startswith("random_") and (of_device := rng_state(device)) is not None:
            size = of_device.numel()
        else:
            continue
        if value.dtype != torch.uint8 or list(value.shape) != [size]:
            raise CheckpointError(
                f"{path}: {name.replace('/', ' of rank ')} is {value.dtype}{list(value.shape)}, "
                f"no state of a generator, which has {size} bytes"
            )


def _loss_scale(path: Path, state: dict[str, float]) -> dict[str, float]:
    scale, good = state.get("scale", 0.0), state.get("good", -1.0)
    if not (isfinite(scale) and scale > 0 and isfinite(good) and good >= 0):
        raise CheckpointError(f"{path}: {state} is no state of a loss scale")
    return state


def _load(path: Path, role: str, target: Any, state: Any) -> None:
    if state is None or not hasattr(target, "load_state_dict"):
        return
    try:
        target.load_state_dict(state)
    except Exception as error:
        raise CheckpointError(
            f"{path}: the {role} does not take its state back: {type(error).__name__}: {error}"
        ) from error
