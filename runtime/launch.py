"""Start the ranks of a plan on this machine with torchrun's own launcher."""

import logging
import os
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pipecut.errors import PeerLostError, RunError


def launch(ranks: int, module: str, arguments: list[str]) -> None:
    """Run `python -m module arguments` once per rank, over loopback. Raises RunError when a rank fails."""
    # Its loggers each set their own level; what they say in warnings, the error below says better.
    logging.disable(logging.ERROR)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
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
    try:
        elastic_launch(config, sys.executable)("-m", module, *arguments)
    except ChildFailedError as error:
        # Ranks that only lost their peer may be noticed before the one that failed.
        first = min(error.failures.items(), key=lambda f: (f[1].exitcode == PeerLostError.exit_code, f[1].timestamp))
        rank, failure = first
        raise RunError(f"rank {rank} ended with exit code {failure.exitcode}; its own message stands above") from None
    except SignalException:
        raise KeyboardInterrupt from None
