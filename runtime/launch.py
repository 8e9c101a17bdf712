"""Start the ranks of a plan on this machine with torchrun's own launcher, and say what became of them."""

import logging
import os
import signal
import sys
import tempfile
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pipecut.errors import PeerLostError, RankLostError
from pipecut.runtime.status import FOLDER, read_status
from pipecut.runtime.watchdog import Watchdog

# Seconds without any progress after which a rank stands still, and how much longer the backend waits.
STALL, LONGER = 240.0, 1.25


def launch(ranks: int, module: str, arguments: list[str], stall: float = STALL) -> None:
    """Run `python -m module arguments` once per rank, over loopback. Raises RankLostError when one fails or stands still."""
    # Its loggers each set their own level; what they say in warnings, the error below says better.
    logging.disable(logging.ERROR)
    # Ranks inherit it; a later launch of this process may say otherwise.
    before = dict(os.environ)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # All ranks are here, so nothing leaves the machine; who wants it otherwise names an interface.
    for backend in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{backend}_SOCKET_IFNAME", "lo")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=0.1,
    )
    with tempfile.TemporaryDirectory(prefix="pipecut-status-") as folder:
        os.environ[FOLDER] = folder
        os.environ.setdefault("PIPECUT_TIMEOUT", str(stall * LONGER))
        watchdog = Watchdog(Path(folder), ranks, stall)
        watchdog.start()
        try:
            elastic_launch(config, sys.executable)("-m", module, *arguments)
        except ChildFailedError as error:
            raise _lost(error, watchdog, Path(folder)) from None
        except SignalException:
            raise KeyboardInterrupt from None
        finally:
            watchdog.end()
            os.environ.clear()
            os.environ.update(before)


def _lost(error: ChildFailedError, watchdog: Watchdog, folder: Path) -> RankLostError:
    """The rank that failed first, and what it did."""
    if watchdog.found is not None:
        return RankLostError(watchdog.found[1], watchdog.found[0])
    # Ranks that only lost their peer may be noticed before the one that failed.
    rank, failure = min(error.failures.items(), key=lambda f: (f[1].exitcode == PeerLostError.exit_code, f[1].timestamp))
    doing = read_status(folder, rank)
    where = f" {doing}" if doing is not None else " before it began"
    if failure.exitcode >= 0:
        told = f"rank {rank} ended with exit code {failure.exitcode}{where}; its own message stands above"
        return RankLostError(told, rank, failure.exitcode)
    name = signal.Signals(-failure.exitcode).name
    hint = "; the system does that when memory runs out" if name == "SIGKILL" else ""
    return RankLostError(f"rank {rank} was ended by {name}{where}{hint}", rank)
