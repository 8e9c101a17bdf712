"""A rank's side of writing checkpoints: what it writes, where, and when."""

import json
import logging
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipecut.device.work import rng_state
from pipecut.errors import CheckpointError, PipecutError
from pipecut.runtime.checkpoint import folder as checkpoint_folder
from pipecut.runtime.checkpoint import lock as folder_lock
from pipecut.runtime.checkpoint import writing
from pipecut.runtime.checkpoint.hosts import Sharing, exchange, first_wrong, meet, sharing
from pipecut.runtime.checkpoint.manifest import (
    LAST_STEP,
    VERSION,
    Elsewhere,
    Group,
    Manifest,
    TrainingState,
    spoken,
)
from pipecut.runtime.checkpoint.rank_tensors import (
    RankTensors,
    collect,
    groups_of,
    not_finite,
    random_of_device,
)
from pipecut.runtime.checkpoint.resume import recipe_of
from pipecut.runtime.gradients.loss_scale import LossScale
from pipecut.runtime.gradients.parameters import RankParameter
from pipecut.runtime.health.status import State
from pipecut.runtime.rank_model import RankModel
from pipecut.runtime.ranks.frozen_values import Digests

log = logging.getLogger("pipecut")
DOING = "saving a checkpoint"


@dataclass(frozen=True)
class SaveRequest:
    """What is to be saved after which step, where, and how: see Pipeline.save."""

    folder: Path
    step: int
    optimizer: torch.optim.Optimizer | None
    scheduler: Any
    data: Any
    keep: int
    wait: bool
    trained_only: bool


@dataclass(frozen=True)
class RankReport:
    """What a rank reports to the others of its part of a checkpoint.

    `groups` are the optimizer's; `not_finite` is the first tensor with a value that is no finite
    number. `last_rows` has the row after the last of each of its tensors, 0 for a whole one; it is
    empty where all ranks see the folder. `frozen` has digests of frozen parameters that are left
    out. All ranks take the first one's `save_id`.
    """

    groups: list[Group]
    not_finite: str | None
    last_rows: dict[str, int]
    frozen: dict[str, str]
    save_id: str


class Saving:
    """The checkpoints of one rank, of which one at a time may be written beside the training.

    `recipe` has what the plan does not know of the training: see resume.py.
    """

    def __init__(self, model: RankModel, scale: LossScale) -> None:
        self.model, self.world, self.scale = model, model.world, scale
        self.writing: threading.Thread | None = None
        self.save_id = ""
        self.failed: PipecutError | None = None
        self.recipe: dict[str, Any] = {}
        self.sharing: dict[Path, Sharing] = {}
        self.locks: dict[Path, int] = {}
        self.digests = Digests()

    def save(self, request: SaveRequest) -> Path:
        """Save as Pipeline.save says. Returns the checkpoint's folder."""
        with self.world.status.during(State.SAVING):
            self.finish()
            if not 0 <= request.step < LAST_STEP:
                raise CheckpointError(
                    f"a checkpoint after step {request.step} cannot be; count steps from 0"
                )
            folder = checkpoint_folder.home_of(request.folder)
            shares = self.enter(folder)
            saved, report = self._collect(request, shares)
            manifest = self._agree(request, shares, report)
            self.set_aside(folder, request.step)
            partial = self._begin(folder, request.step, shares)

            def write() -> None:
                writing.write_part(partial, self.world.rank, saved)
                if self.world.rank == shares.leader:
                    writing.finish(partial, folder, shares.ranks, manifest)
                    checkpoint_folder.prune(folder, request.keep)

            self._start(write, manifest.save)
            if request.wait:
                self.finish()
        return writing.folder_of(folder, request.step)

    def _collect(self, request: SaveRequest, shares: Sharing) -> tuple[RankTensors, RankReport]:
        """This rank's tensors on the CPU, and what it reports of them."""
        world, parameters = self.world, self.model.parameters
        left_out = [p for p in parameters if request.trained_only and not p.trainable]
        kept = [parameter for parameter in parameters if parameter not in left_out]
        written = [parameter for parameter in kept if self._saves(parameter, shares)]
        collected = collect(written, self.model.stored_buffers, request.optimizer)
        tensors, rows = collected.tensors, collected.rows
        if self._first_replica(shares) != world.rank:
            # The first replica that sees the folder has what all have.
            tensors = {name: tensors[name] for name in rows}
        wrong = not_finite(tensors)
        # A copy, where training goes on meanwhile.
        tensors = {name: t.to("cpu", copy=not request.wait) for name, t in tensors.items()}
        tensors[f"random/{world.rank}"] = torch.get_rng_state()
        of_device = rng_state(world.device)
        if of_device is not None:
            tensors[random_of_device(world)] = of_device
        last_rows = {name: rows[name][1] if name in rows else 0 for name in tensors}
        report = RankReport(
            groups_of(parameters, request.optimizer),
            wrong,
            {} if shares.all else last_rows,
            self.digests.of({parameter.name: parameter.model for parameter in left_out}),
            uuid.uuid4().hex,
        )
        return RankTensors(tensors, rows), report

    def _agree(self, request: SaveRequest, shares: Sharing, report: RankReport) -> Manifest:
        """What all ranks together say of the checkpoint, but for its files."""
        world, plan = self.world, self.model.plan
        reports: list[RankReport] = exchange(report, world.rank, world.size, DOING)
        wrong = next((r.not_finite for r in reports if r.not_finite is not None), None)
        if wrong is not None and world.rank == 0:
            log.warning(
                "checkpoint of step %d: %s has values that are no finite numbers; the last "
                "checkpoint that is finite stays",
                request.step,
                spoken(wrong),
            )
        training = TrainingState(
            ranks=world.size,
            steps=world.status.step - 1,
            loss_scale=self.scale.state_dict(),
            scheduler=_plain("scheduler", request.scheduler),
            data=_plain("data", request.data),
            recipe=recipe_of(plan, request.optimizer, self.recipe),
        )
        return Manifest(
            VERSION,
            request.step,
            model={"factory": plan.model.factory, "args": plan.model.args},
            files={},
            tensors={},
            groups=_groups_of_all(reports),
            training=training,
            finite=wrong is None,
            save=reports[0].save_id,
            elsewhere=_elsewhere(shares, reports),
            frozen={name: digest for r in reports for name, digest in r.frozen.items()},
        )

    def _saves(self, parameter: RankParameter, shares: Sharing) -> bool:
        """Whether this rank writes a parameter: the owner does, and ranks that see another."""
        owned = parameter.is_owned_by(self.world.rank)
        return owned or parameter.tied_ranks[0] not in shares.ranks

    def _first_replica(self, shares: Sharing) -> int:
        """Of the ranks that see the folder, the first with this one's stages."""
        world = self.world
        return min({*world.layout.replica_ranks(world.pipeline_rank)} & {*shares.ranks})

    def enter(self, folder: Path) -> Sharing:
        """Find out which ranks see the folder; the first takes its lock. All ranks enter at once.

        Raises CheckpointError where it cannot be written or another run writes there.
        """
        key, world = folder.absolute(), self.world
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
        """Rename checkpoints after this step, so that none wins the next time; warn of it."""
        if self.world.rank != self.enter(folder).leader:
            return
        moved = checkpoint_folder.set_aside(folder, step)
        if moved:
            names = ", ".join(path.name for path in moved)
            log.warning("%s: checkpoints after step %d are set aside as %s", folder, step, names)

    def _begin(self, folder: Path, step: int, shares: Sharing) -> Path:
        world, wrong = self.world, None
        try:
            if world.rank == shares.leader:
                writing.begin(folder, step)
        except CheckpointError as error:
            wrong = str(error)
        first_wrong(exchange(wrong, world.rank, world.size, DOING), world.rank)
        return writing.partial_of(folder, step)

    def _start(self, write: Callable[[], None], save_id: str) -> None:
        """Write on a thread of its own; `finish` or `raise_failed` raise what went wrong."""

        def quietly() -> None:
            try:
                write()
            except PipecutError as error:
                self.failed = error
            except Exception as error:
                self.failed = CheckpointError(f"writing failed: {type(error).__name__}: {error}")

        self.save_id = save_id
        self.writing = threading.Thread(target=quietly, name="pipecut-checkpoint")
        self.writing.start()

    def raise_failed(self) -> None:
        """Raise CheckpointError as soon as this rank's part could not be written."""
        if self.failed is not None:
            raise self.failed

    def finish(self) -> None:
        """Wait until the last checkpoint is whole on every rank. All ranks must call it.

        Raises CheckpointError when it could not be written.
        """
        if self.writing is None:
            return
        world = self.world
        with world.status.during(State.SAVING):
            self.writing.join()
            self.writing = None
            failed, self.failed = self.failed, None
            meet(f"pipecut/saved/{self.save_id}", world.rank, world.size, DOING, failed)


def _groups_of_all(reports: Sequence[RankReport]) -> list[Group]:
    """The options, which are the same on every rank, and the names of all ranks' parameters."""
    groups = zip(*(report.groups for report in reports), strict=True)
    return [
        Group(ranks[0].options, sorted({name for group in ranks for name in group.names}))
        for ranks in groups
    ]


def _elsewhere(shares: Sharing, reports: Sequence[RankReport]) -> dict[str, Elsewhere]:
    """The tensors that only ranks have which do not see the folder."""
    if shares.all:
        return {}
    whole_here = {
        name for rank in shares.ranks for name, end in reports[rank].last_rows.items() if not end
    }
    ranks: dict[str, list[int]] = {}
    rows: dict[str, int] = {}
    for rank, report in enumerate(reports):
        for name, end in report.last_rows.items():
            rows[name] = max(end, rows.get(name, 0))
            if rank not in shares.ranks and name not in whole_here:
                ranks.setdefault(name, []).append(rank)
    return {name: Elsewhere(ranks[name], rows[name]) for name in ranks}


def _plain(role: str, source: Any) -> Any:
    """A state dict that JSON can hold; None where the source has none. Raises CheckpointError."""
    if source is None or not hasattr(source, "state_dict"):
        return None
    state = source.state_dict()
    try:
        return json.loads(json.dumps(state))
    except (TypeError, ValueError):
        raise CheckpointError(
            f"the {role}'s state_dict() has more than numbers, texts, lists and dictionaries"
        ) from None
