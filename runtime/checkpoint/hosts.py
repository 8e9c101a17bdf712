"""Which ranks see the same files, and meetings that wait as long as a file system needs."""

import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from pipecut.errors import CheckpointError, PeerLostError, PipecutError
from pipecut.runtime.health.rank_errors import naming_errors
from pipecut.runtime.health.timeouts import save_timeout

# A network file system may show others' files only after so many seconds.
SETTLE = 3.0
# Seconds between looks.
LOOK = 0.1


@dataclass(frozen=True)
class Sharing:
    """The ranks that see the same folder as this one, itself among them, and the size of all."""

    ranks: tuple[int, ...]
    size: int

    @property
    def leader(self) -> int:
        """The rank that does what is done once per folder."""
        return self.ranks[0]

    @property
    def all(self) -> bool:
        """Whether every rank sees the same folder."""
        return len(self.ranks) == self.size


def exchange(value: Any, rank: int, size: int, doing: str) -> list[Any]:
    """Every rank's value, on every rank, in the order of ranks."""
    if size == 1:
        return [value]
    values: list[Any] = [None] * size
    with naming_errors(f"rank {rank}, {doing}"):
        dist.all_gather_object(values, value)
    return values


def meet(key: str, rank: int, size: int, doing: str, wrong: PipecutError | None = None) -> None:
    """Wait until every rank has come to this key, which is used once; raise what is wrong here.

    Unlike a barrier of the backend it has no short time limit: others may be writing for long.
    Raises PeerLostError where something is wrong on another rank.
    """
    if size == 1:
        if wrong is not None:
            raise wrong
        return
    with naming_errors(f"rank {rank}, {doing}"):
        store = dist.distributed_c10d._get_default_store()
        if wrong is not None:
            store.set(f"{key}/wrong", str(rank))
        if store.add(key, 1) == size:
            store.set(f"{key}/all", "")
        begun = time.monotonic()
        while wrong is None and not store.check([f"{key}/all"]):
            if time.monotonic() - begun > save_timeout():
                raise CheckpointError(
                    f"the {size} ranks did not all come within {save_timeout():.0f} s; "
                    "PIPECUT_SAVE_TIMEOUT=SECONDS waits longer"
                )
            time.sleep(0.02)
        if wrong is None and store.check([f"{key}/wrong"]):
            raise PeerLostError("another rank cannot go on; its own message says why")
    if wrong is not None:
        raise wrong


def sharing(folder: Path, rank: int, size: int) -> Sharing:
    """Which ranks see this folder, by a file that each writes and looks for. All must ask at once.

    Raises CheckpointError where a rank cannot write there.
    """
    if size == 1:
        return Sharing((0,), 1)
    token = folder / f".seen-{uuid.uuid4().hex}"
    wrong = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        token.touch()
    except OSError as error:
        wrong = (
            f"rank {rank}: {folder} cannot be written: {error.strerror}; "
            "--checkpoints takes another folder"
        )
    doing = f"finding which ranks see {folder}"
    tokens = exchange((token.name, wrong), rank, size, doing)
    try:
        first_wrong([problem for _, problem in tokens], rank)
        names = [name for name, _ in tokens]
        seen, begun = _seen(folder, names), time.monotonic()
        while len(seen) < size and time.monotonic() - begun < SETTLE:
            time.sleep(LOOK)
            seen = _seen(folder, names)
        seen_by_rank = exchange(seen, rank, size, doing)
    finally:
        with suppress(OSError):
            token.unlink()
    unlike = [peer for peer in seen if seen_by_rank[peer] != seen]
    if unlike:
        raise CheckpointError(
            f"rank {rank} sees what ranks {seen} wrote into {folder}, rank {unlike[0]} what "
            f"{seen_by_rank[unlike[0]]} did; --checkpoints takes a folder that all see, or each "
            "machine its own"
        )
    return Sharing(seen, size)


def _seen(folder: Path, names: list[str]) -> tuple[int, ...]:
    return tuple(rank for rank, name in enumerate(names) if (folder / name).exists())


def first_wrong(wrong: list[str | None], rank: int) -> None:
    """Raise what is wrong on this rank as a CheckpointError, or PeerLostError for another rank."""
    if (text := wrong[rank]) is not None:
        raise CheckpointError(text)
    failed = [peer for peer, problem in enumerate(wrong) if problem is not None]
    if failed:
        raise PeerLostError(f"rank {rank}: rank {failed[0]} cannot go on; its own message says why")
