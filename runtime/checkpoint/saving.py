"""A rank's side of checkpoints: what it writes, when, and what it takes back."""

import json
import logging
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipecut.device.work import rng_state, set_rng_state
from pipecut.errors import CheckpointError, PipecutError
from pipecut.runtime.checkpoint import files as checkpoint
from pipecut.runtime.checkpoint import folder as checkpoint_folder
from pipecut.runtime.checkpoint import lock as folder_lock
from pipecut.runtime.checkpoint import resume
from pipecut.runtime.checkpoint.files import Elsewhere, Facts, Group, Rest
from pipecut.runtime.checkpoint.hosts import Sharing, exchange, first_wrong, meet, sharing
from pipecut.runtime.checkpoint.state import (
    groups_of,
    not_finite,
    put_back,
    tensors_of,
    wanted_states,
)
from pipecut.runtime.health.status import State
from pipecut.runtime.ranks.world import World

if TYPE_CHECKING:
    from pipecut.runtime.pipeline import Pipeline

log = logging.getLogger("pipecut")
DOING = "saving a checkpoint"
# A checkpoint as machines compare it: its step, and what all who wrote it know it by.
Key = tuple[int, str]


class Saving:
    """The checkpoints of one rank, of which one may be written at a time, beside the training.

    `more` is what a training is made by that the plan does not know; see resume.py.
    """

    def __init__(self, pipe: "Pipeline") -> None:
        self.pipe = pipe
        self.writing: threading.Thread | None = None
        self.save_id = ""
        self.failed: PipecutError | None = None
        self.more: dict[str, Any] = {}
        self.sharing: dict[Path, Sharing] = {}
        self.locks: dict[Path, int] = {}

    def save(
        self,
        folder: Path,
        optimizer: torch.optim.Optimizer | None,
        scheduler: Any,
        step: int,
        data: Any,
        keep: int,
        wait: bool,
    ) -> Path:
        """As Pipeline.save."""
        with self.pipe.world.status.during(State.SAVING):
            self.finish()
            return self._save(folder, optimizer, scheduler, step, data, keep, wait)

    def _save(
        self,
        folder: Path,
        optimizer: torch.optim.Optimizer | None,
        scheduler: Any,
        step: int,
        data: Any,
        keep: int,
        wait: bool,
    ) -> Path:
        world = self.pipe.world
        if not 0 <= step < checkpoint.LAST_STEP:
            raise CheckpointError(f"a checkpoint after step {step} cannot be; count steps from 0")
        folder = checkpoint_folder.home_of(folder)
        shares = self.enter(folder)
        rest = Rest(
            ranks=world.size,
            steps=world.status.step - 1,
            loss_scale=self.pipe.scale.state_dict(),
            scheduler=_plain("scheduler", scheduler),
            data=_plain("data", data),
            made=resume.made_by(self.pipe.plan, optimizer, self.more),
        )
        model = {"factory": self.pipe.plan.model.factory, "args": self.pipe.plan.model.args}
        about = Facts(checkpoint.VERSION, step, model, {}, {}, [], rest)
        tensors, divided, about = self._gather(shares, optimizer, about, wait)
        self.set_aside(folder, step)
        partial = self._begin(folder, step, shares)

        def write() -> None:
            checkpoint.write_part(partial, world.rank, tensors, divided)
            if world.rank == shares.leader:
                checkpoint.finish(partial, folder, shares.ranks, about)
                checkpoint_folder.prune(folder, keep)

        self.save_id = about.save
        name = "pipecut-checkpoint"
        self.writing = threading.Thread(target=self._quietly, args=(write,), name=name)
        self.writing.start()
        if wait:
            self.finish()
        return checkpoint.folder_of(folder, step)

    def _gather(
        self, shares: Sharing, optimizer: torch.optim.Optimizer | None, about: Facts, wait: bool
    ) -> tuple[dict[str, torch.Tensor], dict[str, tuple[int, int]], Facts]:
        """This rank's tensors and rows, and what all ranks together say of the checkpoint."""
        pipe, world = self.pipe, self.pipe.world
        mine = {name: p for name, p in pipe.held.items() if self._saves(name, shares)}
        rows = {name: own for name, p in mine.items() if (own := pipe.rows(p)) is not None}
        tensors, divided = tensors_of(mine, pipe.kept_buffers, optimizer, rows)
        if self._first_replica(shares) != world.rank:
            # The first replica here has what all have.
            tensors = {name: tensors[name] for name in divided}
        infinite = not_finite(tensors)
        tensors = {name: tensor.to("cpu", copy=not wait) for name, tensor in tensors.items()}
        tensors[f"random/{world.rank}"] = torch.get_rng_state()
        of_device = rng_state(world.device)
        if of_device is not None:
            tensors[_random_name(world)] = of_device
        # Machines that share the folder need no list of what the others have.
        ends = {} if shares.all else {n: divided[n][1] if n in divided else 0 for n in tensors}
        said = groups_of(pipe.held, optimizer), infinite, ends, uuid.uuid4().hex
        everyone = exchange(said, world.rank, world.size, DOING)
        wrong = [name for _, name, _, _ in everyone if name is not None]
        if wrong and world.rank == 0:
            log.warning(
                "checkpoint of step %d: %s has values that are no finite numbers; the last checkpoint that is finite stays",
                about.step,
                wrong[0].replace("/", " ", 1),
            )
        return (
            tensors,
            divided,
            replace(
                about,
                groups=_joined([groups for groups, _, _, _ in everyone]),
                finite=not wrong,
                save=everyone[0][3],
                elsewhere=_elsewhere(shares, [ends for _, _, ends, _ in everyone]),
            ),
        )

    def _saves(self, name: str, shares: Sharing) -> bool:
        """Whether this rank writes a parameter: no other that sees the folder has it as its own."""
        owner = self.pipe.tied.owners.get(name, self.pipe.world.rank)
        return owner == self.pipe.world.rank or owner not in shares.ranks

    def _first_replica(self, shares: Sharing) -> int:
        """Of the ranks that see the folder, the first with this one's stages."""
        world = self.pipe.world
        first = world.pipeline_rank * world.replicas
        return min(rank for rank in shares.ranks if 0 <= rank - first < world.replicas)

    def enter(self, folder: Path) -> Sharing:
        """Who sees the folder; the first of them holds its lock. All ranks enter at once.

        Raises CheckpointError where it cannot be written or another run writes there.
        """
        key, world = folder.absolute(), self.pipe.world
        if key in self.sharing:
            return self.sharing[key]
        shares = sharing(folder, world.rank, world.size)
        wrong = None
        if world.rank == shares.leader:
            try:
                self.locks[key] = folder_lock.hold(folder)
                checkpoint_folder.tidy(folder)
            except (CheckpointError, OSError) as error:
                wrong = str(error)
        first_wrong(exchange(wrong, world.rank, world.size, DOING), world.rank)
        if not shares.all and world.rank == 0:
            log.warning(
                "the ranks do not all see %s: each machine keeps its own ranks' files there; a "
                "training goes on from the last step that all machines have, with the same ranks "
                "on them, or once their files were copied together",
                folder,
            )
        self.sharing[key] = shares
        return shares

    def set_aside(self, folder: Path, step: int) -> None:
        """Rename what is later than this step, so that it does not win the next time; say so."""
        shares, rank = self.enter(folder), self.pipe.world.rank
        moved = checkpoint_folder.set_aside(folder, step) if rank == shares.leader else []
        if moved:
            log.warning(
                "%s: checkpoints after step %d are set aside as %s",
                folder,
                step,
                ", ".join(path.name for path in moved),
            )

    def _begin(self, folder: Path, step: int, shares: Sharing) -> Path:
        world, wrong = self.pipe.world, None
        try:
            if world.rank == shares.leader:
                checkpoint.begin(folder, step)
        except CheckpointError as error:
            wrong = str(error)
        first_wrong(exchange(wrong, world.rank, world.size, DOING), world.rank)
        return checkpoint.partial_of(folder, step)

    def _quietly(self, write: Callable[[], None]) -> None:
        try:
            write()
        except PipecutError as error:
            self.failed = error
        except Exception as error:
            self.failed = CheckpointError(f"writing failed: {type(error).__name__}: {error}")

    def raise_failed(self) -> None:
        """Raises CheckpointError as soon as this rank's part could not be written."""
        if self.failed is not None:
            raise self.failed

    def finish(self) -> None:
        """Wait until the last checkpoint is whole on every rank. All ranks must call it.

        Raises CheckpointError when it could not be written.
        """
        if self.writing is None:
            return
        world = self.pipe.world
        with world.status.during(State.SAVING):
            self.writing.join()
            self.writing = None
            failed, self.failed = self.failed, None
            meet(f"pipecut/saved/{self.save_id}", world.rank, world.size, DOING, failed)

    def find(self, folder: Path) -> Path | None:
        """The last checkpoint that every rank sees, which all ask for at once; None without one.

        Raises CheckpointError where the last one is damaged.
        """
        world = self.pipe.world
        path, key, wrong = checkpoint_folder.latest(folder), None, None
        try:
            key = _key(path) if path is not None else None
        except CheckpointError as error:
            wrong = str(error)
        doing = "looking for a checkpoint"
        everyone = exchange((key, wrong), world.rank, world.size, doing)
        first_wrong([text for _, text in everyone], world.rank)
        if all(other == key for other, _ in everyone):
            return path
        own: dict[Key, Path] = {}
        for known in [folder] if path == folder else checkpoint_folder.checkpoints(folder):
            try:
                own[_key(known)] = known
            except CheckpointError as error:
                log.warning("%s", error)
        common = set(own).intersection(*exchange(set(own), world.rank, world.size, doing))
        return own[max(common)] if common else None

    def restore(
        self,
        folder: Path,
        optimizer: torch.optim.Optimizer | None,
        scheduler: Any,
        data: Any,
    ) -> int:
        """As Pipeline.restore."""
        path = self.find(folder)
        if path is None:
            some = checkpoint_folder.latest(folder) is not None
            what = "no checkpoint that all machines have" if some else "no checkpoint"
            raise CheckpointError(f"{folder} has {what}; leave out --resume to begin anew")
        facts = checkpoint.read_facts(path)
        self._refuse(path, facts, optimizer)
        values = self._read(path, facts, optimizer)
        _check_random(path, values, self.pipe.world.device)
        groups = facts.groups
        pipe, world = self.pipe, self.pipe.world
        notes = resume.changes(facts, pipe.plan, self.more)
        notes += put_back(str(path), values, pipe.held, pipe.kept_buffers, optimizer, groups)
        for note in notes if world.rank == 0 else ():
            log.warning("going on from %s: %s", path, note)
        if pipe.scale.used and facts.rest.loss_scale:
            pipe.scale.load_state_dict(_loss_scale(path, facts.rest.loss_scale))
        if f"random/{world.rank}" in values:
            torch.set_rng_state(values[f"random/{world.rank}"])
        set_rng_state(world.device, values.get(_random_name(world)))
        states = facts.rest.scheduler, facts.rest.data
        for what, target, state in zip(
            ("scheduler", "data"), (scheduler, data), states, strict=True
        ):
            _load(path, what, target, state)
        steps = facts.step if facts.rest.steps is None else facts.rest.steps
        world.status.step = steps + 1
        self.more = {
            **{key: facts.rest.made[key] for key in ("clip",) if key in facts.rest.made},
            **self.more,
        }
        return facts.step

    def _refuse(self, path: Path, facts: Facts, optimizer: torch.optim.Optimizer | None) -> None:
        """What is of another model or optimizer, or has diverged."""
        resume.refuse_other_model(str(path), self.pipe.plan, facts)
        if optimizer is not None:
            resume.refuse_other_optimizer(str(path), facts, optimizer, self.more.get("kind"))
        if not facts.finite:
            raise CheckpointError(
                f"{path} has values that are no finite numbers: its training had diverged; move it "
                "out of the folder to go on from the checkpoint before it"
            )

    def _read(
        self, path: Path, facts: Facts, optimizer: torch.optim.Optimizer | None
    ) -> dict[str, torch.Tensor]:
        pipe, world = self.pipe, self.pipe.world
        keys = {name: [f"parameter/{name}"] for name in pipe.held}
        if optimizer is not None:
            for name, states in wanted_states(pipe.held, facts.names).items():
                keys[name] += [f"optimizer/{state}/{name}" for state in states]
        wanted = [key for own in keys.values() for key in own]
        wanted += [f"buffer/{name}" for name in pipe.kept_buffers]
        # Random numbers go on where they were only where there are as many ranks.
        random = [f"random/{world.rank}", _random_name(world)]
        if facts.rest.ranks == world.size:
            wanted += [name for name in random if name in facts.names]
        shapes = {h.names[0]: h.shape for stage in pipe.plan.stages for h in stage.parameters}
        divided = {name: own for name, p in pipe.held.items() if (own := pipe.rows(p)) is not None}
        rows = {key: (*own, shapes[name][0]) for name, own in divided.items() for key in keys[name]}
        return checkpoint.read_tensors(path, facts, wanted, rows)


def _key(path: Path) -> Key:
    facts = checkpoint.read_facts(path)
    return facts.step, facts.save


def _joined(everyone: list[list[dict[str, Any]]]) -> list[Group]:
    """The same options on every rank; the names of all."""
    return [
        Group(group["options"], sorted({n for other in everyone for n in other[at]["names"]}))
        for at, group in enumerate(everyone[0])
    ]


def _elsewhere(shares: Sharing, ends: list[dict[str, int]]) -> dict[str, Elsewhere]:
    """What ranks that do not see the folder have, by the last row of each of their tensors or 0."""
    if shares.all:
        return {}
    here = {name for rank in shares.ranks for name, end in ends[rank].items() if not end}
    away: dict[str, list[int]] = {}
    rows: dict[str, int] = {}
    for rank, own in enumerate(ends):
        for name, end in own.items():
            rows[name] = max(end, rows.get(name, 0))
            if rank not in shares.ranks and name not in here:
                away.setdefault(name, []).append(rank)
    return {name: Elsewhere(ranks, rows[name]) for name, ranks in away.items()}


def _random_name(world: World) -> str:
    """The name of a rank's own generator, of its device, in a checkpoint."""
    return f"random_{world.device.type}/{world.rank}"


def _check_random(path: Path, values: dict[str, torch.Tensor], device: torch.device) -> None:
    """Raises CheckpointError where a state of a random number generator is none."""
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


def _load(path: Path, what: str, target: Any, state: Any) -> None:
    if state is None or not hasattr(target, "load_state_dict"):
        return
    try:
        target.load_state_dict(state)
    except Exception as error:
        raise CheckpointError(
            f"{path}: the {what} does not take its state back: {type(error).__name__}: {error}"
        ) from error


def _plain(what: str, source: Any) -> Any:
    """A state dict that JSON can hold; None where the source has none. Raises CheckpointError."""
    if source is None or not hasattr(source, "state_dict"):
        return None
    state = source.state_dict()
    try:
        return json.loads(json.dumps(state))
    except (TypeError, ValueError):
        raise CheckpointError(
            f"the {what}'s state_dict() has more than numbers, texts, lists and dictionaries"
        ) from None
