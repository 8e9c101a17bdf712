"""Start the ranks of a plan on this machine, wait for them, and report how they ended.

No port is opened: the ranks meet at a file in a folder that only this user can read, and their
messages stay on loopback. torchrun starts ranks of several machines instead.
"""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from pipecut.errors import PeerLostError, RankLostError
from pipecut.runtime.health.interrupt import INTERRUPTED
from pipecut.runtime.health.status import FOLDER, RankStatus, State, read_status
from pipecut.runtime.health.timeouts import stall_timeout, transfer_timeout
from pipecut.runtime.health.watchdog import Watchdog
from pipecut.runtime.launch.local_ranks import LocalRanks
from pipecut.runtime.ranks.environment import STORE

# The backend waits so many times as long as the watchdog, which can name the rank.
LONGER = 1.25
# Seconds in which the rank at fault ends, after another rank lost it.
FAULT_SHOWS = 10.0
# Variables of another launcher around this one, which ranks would take for ours.
FOREIGN = re.compile("TORCHELASTIC_.*|(GROUP|ROLE)_(RANK|WORLD_SIZE|NAME)|MASTER_(ADDR|PORT)")


def launch(
    ranks: int,
    module: str,
    arguments: Sequence[str],
    stall: float | None = None,
    devices: Sequence[Mapping[str, str]] | None = None,
) -> None:
    """Run `python -m module arguments` once per rank, over loopback.

    `devices` has each rank's variables that name its device. Raises RankLostError when a rank fails
    or stands still for `stall` seconds, KeyboardInterrupt after a Ctrl-C, once all ranks ended.
    """
    limit = stall_timeout() if stall is None else stall
    # Refuse a wrong value here once, instead of on every rank.
    transfer_timeout()
    command = [sys.executable, "-m", module, *arguments]
    with _signals() as received, LocalRanks() as started:
        meeting = {FOLDER: str(started.folder), STORE: str(started.folder / "store")}
        environments = [
            {
                **environment_of_rank(ranks, rank, limit),
                **meeting,
                **(devices[rank] if devices else {}),
            }
            for rank in range(ranks)
        ]
        started.start(command, environments)
        watchdog = Watchdog(started.folder, [p.pid for p in started.processes], limit)
        watchdog.start()
        try:
            _wait(started, received, watchdog)
        except KeyboardInterrupt:
            _say_stopped(started, command)
            raise
        finally:
            watchdog.end()


def environment_of_rank(ranks: int, rank: int, stall: float) -> dict[str, str]:
    """A rank's variables where all ranks run on this machine, without where they meet."""
    inherited = {n: v for n, v in os.environ.items() if not FOREIGN.fullmatch(n)}
    defaults = {
        "OMP_NUM_THREADS": "1",
        # All ranks run on this machine: use loopback unless the user set an interface.
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        "PIPECUT_TIMEOUT": str(stall * LONGER),
    }
    numbers = dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank))
    sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(ranks))
    return {**defaults, **inherited, **numbers, **sizes}


@contextmanager
def _signals() -> Iterator[list[signal.Signals]]:
    """Collect the signals that ask this process to end, instead of handling them."""
    received: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        # Python lets only the main thread handle signals.
        yield received
        return
    ending = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT
    handlers = {
        number: signal.signal(number, lambda n, _: received.append(signal.Signals(n)))
        for number in ending
        # Ignored such as SIGHUP under nohup.
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _wait(started: LocalRanks, received: list[signal.Signals], watchdog: Watchdog) -> None:
    """Wait until every rank ended well. Raises RankLostError, or KeyboardInterrupt."""
    failed_at: float | None = None
    while started.alive:
        if received:
            _stop(started, received)
            raise KeyboardInterrupt
        started.look()
        failed = [rank for rank, code in started.ended.items() if _failed(started, rank, code)]
        if not failed:
            continue
        failed_at = failed_at or time.monotonic()
        at_fault = [rank for rank in failed if started.ended[rank] != PeerLostError.exit_code]
        if at_fault or not started.alive or time.monotonic() > failed_at + FAULT_SHOWS:
            started.end()
            raise _lost((at_fault or failed)[0], started, watchdog)


def _failed(started: LocalRanks, rank: int, code: int) -> bool:
    """Whether a rank ended before its last step was done. A rank need not have a status."""
    status = read_status(started.folder, rank)
    return code != 0 or (status is not None and status.state is not State.ENDED)


def _stop(started: LocalRanks, received: list[signal.Signals]) -> None:
    """Ask the ranks to stop, as Ctrl-C does; a second Ctrl-C kills them.

    They may save meanwhile, for as long as the watchdog lets them.
    """
    started.send(signal.SIGINT)
    while started.alive and len(received) == 1:
        started.look()
    started.end(0.0)


def _say_stopped(started: LocalRanks, command: Sequence[str]) -> None:
    """Print that all ranks were stopped, unless they printed it themselves after a step."""
    count = len(started.processes)
    statuses = {r: s for r in range(count) if (s := read_status(started.folder, r)) is not None}
    ended = [rank for rank, status in statuses.items() if status.state is State.ENDED]
    if "pipecut.runtime" in command and any(
        started.ended.get(rank) == INTERRUPTED for rank in ended
    ):
        return
    early = State.STARTING, State.BETWEEN
    begun = any(s.step > 1 or s.state not in early for s in statuses.values())
    before_first_step = not begun and "--restarted" not in command
    when = " before the first step; nothing was written" if before_first_step else ""
    print(f"pipecut: stopped{when}\n", end="", file=sys.stderr, flush=True)


def _lost(rank: int, started: LocalRanks, watchdog: Watchdog) -> RankLostError:
    """The error of the rank that failed first, with what it was doing."""
    if watchdog.stall is not None:
        return RankLostError(watchdog.stall.message, watchdog.stall.rank)
    return lost_rank(rank, read_status(started.folder, rank), started.ended[rank])


def lost_rank(rank: int, status: RankStatus | None, code: int) -> RankLostError:
    """The error of a rank that ended with this exit code (negative: by a signal) in this status."""
    where = f" {status}" if status is not None else " before it began"
    if code == 0:
        return RankLostError(f"rank {rank} ended by itself, with exit code 0,{where}", rank, code)
    if code > 0:
        message = f"rank {rank} ended with exit code {code}{where}; its own message stands above"
        return RankLostError(message, rank, code)
    name = signal.Signals(-code).name
    hint = "; the system does that when memory runs out" if name == "SIGKILL" else ""
    return RankLostError(f"rank {rank} was ended by {name}{where}{hint}", rank)
