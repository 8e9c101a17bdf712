"""Start the ranks of a plan on this machine, wait for them, and say what became of them.

No port is opened: the ranks meet at a file in a folder that this user alone can read, and their messages stay on
loopback. Ranks of several machines are started by torchrun instead.
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
from pipecut.runtime.health.status import FOLDER, State, read_status
from pipecut.runtime.health.timeouts import stall_timeout, transfer_timeout
from pipecut.runtime.health.watchdog import Watchdog
from pipecut.runtime.launch.local_ranks import LocalRanks
from pipecut.runtime.ranks.rendezvous import STORE

# Exit code of a rank that was asked to stop, as shells have it.
STOPPED = 130
# How much longer than the watchdog the backend waits.
LONGER = 1.25
# Seconds in which the rank at fault shows, after another one lost it.
SHOWS = 10.0
# What another launcher around this one may have set, and would be taken for ours.
FOREIGN = re.compile("TORCHELASTIC_.*|(GROUP|ROLE)_(RANK|WORLD_SIZE|NAME)|MASTER_(ADDR|PORT)")


def launch(
    ranks: int,
    module: str,
    arguments: Sequence[str],
    stall: float | None = None,
    devices: Sequence[Mapping[str, str]] | None = None,
) -> None:
    """Run `python -m module arguments` once per rank, over loopback.

    `devices` are variables that tell each rank its own device. Raises RankLostError when a rank fails or stands
    still for `stall` seconds, KeyboardInterrupt after a Ctrl-C, once the ranks have ended.
    """
    limit = stall_timeout() if stall is None else stall
    # A wrong one is told here, once, and not by every rank.
    transfer_timeout()
    command = [sys.executable, "-m", module, *arguments]
    with _signals() as received, LocalRanks() as started:
        meeting = {FOLDER: str(started.folder), STORE: str(started.folder / "store")}
        environments = [
            {**_environment(ranks, rank, limit), **meeting, **(devices[rank] if devices else {})}
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


def _environment(ranks: int, rank: int, stall: float) -> dict[str, str]:
    inherited = {n: v for n, v in os.environ.items() if not FOREIGN.fullmatch(n)}
    defaults = {
        "OMP_NUM_THREADS": "1",
        # All ranks run on this machine: use loopback unless the user set an interface.
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        "PIPECUT_TIMEOUT": str(stall * LONGER),
    }
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    return {**defaults, **inherited, **{name: str(value) for name, value in place.items()}}


@contextmanager
def _signals() -> Iterator[list[signal.Signals]]:
    """Signals that ask this process to end, as they come, in place of what they would do."""
    received: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        # Python lets the main thread alone handle signals.
        yield received
        return
    asks = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT
    before = {
        ask: signal.signal(ask, lambda number, _: received.append(signal.Signals(number)))
        for ask in asks
        # Such as SIGHUP under nohup.
        if signal.getsignal(ask) is not signal.SIG_IGN
    }
    try:
        yield received
    finally:
        for ask, handler in before.items():
            signal.signal(ask, handler)


def _wait(started: LocalRanks, received: list[signal.Signals], watchdog: Watchdog) -> None:
    """Until every rank ended well. Raises RankLostError, or KeyboardInterrupt."""
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
        if at_fault or not started.alive or time.monotonic() > failed_at + SHOWS:
            started.end()
            raise _lost((at_fault or failed)[0], started, watchdog)


def _failed(started: LocalRanks, rank: int, code: int) -> bool:
    """Whether a rank ended otherwise than after its last step; ranks of other modules may not say what they do."""
    doing = read_status(started.folder, rank)
    return code != 0 or (doing is not None and doing.state is not State.ENDED)


def _stop(started: LocalRanks, received: list[signal.Signals]) -> None:
    """Ask the ranks to stop, as Ctrl-C does; a second one kills them.

    They may save meanwhile, for as long as the watchdog lets them.
    """
    started.send(signal.SIGINT)
    while started.alive and len(received) == 1:
        started.look()
    started.end(0.0)


def _say_stopped(started: LocalRanks, command: Sequence[str]) -> None:
    """Say that all ranks were stopped, and when, unless they stopped after a step and said more themselves."""
    doings = [read_status(started.folder, rank) for rank in range(len(started.processes))]
    ended = {
        rank
        for rank, doing in enumerate(doings)
        if doing is not None and doing.state is State.ENDED
    }
    if "pipecut.runtime" in command and any(started.ended.get(rank) == STOPPED for rank in ended):
        return
    early = State.STARTING, State.BETWEEN
    begun = any(
        doing is not None and (doing.step > 1 or doing.state not in early) for doing in doings
    )
    first = not begun and "--restarted" not in command
    when = " before the first step; nothing was written" if first else ""
    print(f"pipecut: stopped{when}\n", end="", file=sys.stderr, flush=True)


def _lost(rank: int, started: LocalRanks, watchdog: Watchdog) -> RankLostError:
    """The rank that failed first, and what it did."""
    if watchdog.found is not None:
        return RankLostError(watchdog.found[1], watchdog.found[0])
    doing, code = read_status(started.folder, rank), started.ended[rank]
    where = f" {doing}" if doing is not None else " before it began"
    if code == 0:
        return RankLostError(f"rank {rank} ended by itself, with exit code 0,{where}", rank, code)
    if code > 0:
        message = f"rank {rank} ended with exit code {code}{where}; its own message stands above"
        return RankLostError(message, rank, code)
    name = signal.Signals(-code).name
    hint = "; the system does that when memory runs out" if name == "SIGKILL" else ""
    return RankLostError(f"rank {rank} was ended by {name}{where}{hint}", rank)
