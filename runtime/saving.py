"""A rank's side of checkpoints: what it writes, when, and what it takes back."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from pipecut.errors import CheckpointError, PipecutError
from pipecut.runtime import checkpoint
from pipecut.runtime.peers import told
from pipecut.runtime.training_state import groups_of, put_back, tensors_of, wanted_states

if TYPE_CHECKING:
    from pipecut.runtime.pipeline import Pipeline


class Saving:
    """The checkpoints of one rank, of which one may be written at a time, beside the training."""

    def __init__(self, pipe: "Pipeline") -> None:
        self.pipe = pipe
        self.writing: threading.Thread | None = None
        self.failed: PipecutError | None = None

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
        self.finish()
        pipe, world = self.pipe, self.pipe.world
        mine = {name: p for name, p in pipe.held.items() if name not in pipe.tied.owned_elsewhere}
        rows = {name: own for name, p in mine.items() if (own := pipe.rows(p)) is not None}
        tensors, divided = tensors_of(mine, pipe.kept_buffers, optimizer, rows)
        if world.replica:
            # The first replica has what all have.
            tensors = {name: tensors[name] for name in divided}
        tensors = {name: tensor.to("cpu", copy=not wait) for name, tensor in tensors.items()}
        tensors[f"random/{world.rank}"] = torch.get_rng_state()
        if world.device.type == "cuda":
            tensors[f"random_cuda/{world.rank}"] = torch.cuda.get_rng_state(world.device)
        with told(f"rank {world.rank}, saving a checkpoint"):
            groups = self._groups(mine, optimizer)
        rest = {
            "loss_scale": pipe.scale.state_dict(),
            "ranks": world.size,
            "scheduler": _plain("scheduler", scheduler),
            "data": _plain("data", data),
        }
        if world.rank == 0:
            checkpoint.begin(folder, step)
        self._together()
        partial = checkpoint.partial_of(folder, step)
        model = {"factory": pipe.plan.model.factory, "args": pipe.plan.model.args}

        def write() -> None:
            checkpoint.write_part(partial, f"rank_{world.rank}", tensors, divided)
            if world.rank == 0:
                checkpoint.finish(partial, folder, world.size, step, model, groups, rest)
                checkpoint.prune(folder, keep)

        if wait:
            write()
            self._together()
        else:
            self.writing = threading.Thread(target=self._quietly, args=(write,), name="pipecut-checkpoint")
            self.writing.start()
        return checkpoint.folder_of(folder, step)

    def _together(self) -> None:
        if self.pipe.world.size > 1:
            with told(f"rank {self.pipe.world.rank}, saving a checkpoint"):
                dist.barrier()

    def _quietly(self, write: Callable[[], None]) -> None:
        try:
            write()
        except PipecutError as error:
            self.failed = error

    def finish(self) -> None:
        """Wait until the last checkpoint is written. Raises CheckpointError when it could not be."""
        if self.writing is not None:
            self.writing.join()
            self.writing = None
        failed, self.failed = self.failed, None
        if failed is not None:
            raise failed

    def restore(self, folder: Path, optimizer: torch.optim.Optimizer | None, scheduler: Any, data: Any) -> int:
        """As Pipeline.restore."""
        path = checkpoint.latest(folder)
        if path is None:
            raise CheckpointError(f"{folder} has no checkpoint; leave out --resume to begin anew")
        pipe, world = self.pipe, self.pipe.world
        facts = checkpoint.read_facts(path)
        keys = {name: [f"parameter/{name}"] for name in pipe.held}
        if optimizer is not None:
            for name, states in wanted_states(pipe.held, [*facts.tensors, *facts.pieces]).items():
                keys[name] += [f"optimizer/{state}/{name}" for state in states]
        wanted = [key for own in keys.values() for key in own] + [f"buffer/{name}" for name in pipe.kept_buffers]
        shapes = {held.names[0]: held.shape for stage in pipe.plan.stages for held in stage.parameters}
        divided = {name: (*own, shapes[name][0]) for name, p in pipe.held.items() if (own := pipe.rows(p)) is not None}
        only = {key: rows for name, rows in divided.items() for key in keys[name]}
        # Random numbers go on where they were only where there are as many ranks.
        random = [f"random/{world.rank}", f"random_cuda/{world.rank}"] if facts.rest.get("ranks") == world.size else []
        values = checkpoint.read_tensors(path, facts, [*wanted, *(name for name in random if name in facts.tensors)], only)
        if pipe.scale.used and "loss_scale" in facts.rest:
            pipe.scale.load_state_dict(facts.rest["loss_scale"])
        put_back(values, pipe.held, pipe.kept_buffers, optimizer, facts.groups)
        if f"random/{world.rank}" in values:
            torch.set_rng_state(values[f"random/{world.rank}"])
        if f"random_cuda/{world.rank}" in values and world.device.type == "cuda":
            torch.cuda.set_rng_state(values[f"random_cuda/{world.rank}"], world.device)
        for what, target in (("scheduler", scheduler), ("data", data)):
            state = facts.rest.get(what)
            if state is not None and hasattr(target, "load_state_dict"):
                target.load_state_dict(state)
        return facts.step

    def _groups(self, mine: dict[str, Any], optimizer: torch.optim.Optimizer | None) -> list[dict[str, Any]]:
        """The same options on every rank; the names of all."""
        own = groups_of(mine, optimizer)
        everyone: list[Any] = [own]
        if self.pipe.world.size > 1:
            everyone = [None] * self.pipe.world.size
            dist.all_gather_object(everyone, own)
        return [
            {"options": group["options"], "names": sorted({n for other in everyone for n in other[at]["names"]})}
            for at, group in enumerate(own)
        ]


def _plain(what: str, source: Any) -> Any:
    """A state dict that JSON can hold; None where the source has none. Raises CheckpointError."""
    if source is None or not hasattr(source, "state_dict"):
        return None
    state = source.state_dict()
    try:
        return json.loads(json.dumps(state))
    except (TypeError, ValueError):
        raise CheckpointError(f"the {what}'s state_dict() has more than numbers, texts, lists and dictionaries") from None
