"""Start ranks that each run a few lines of code, as a user's script on several hosts would."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipecut.runtime.ranks.environment import STORE

ROOT = Path(__file__).parents[1]
SCRIPT = """
import os
import sys
from pathlib import Path
import torch
import pipecut
from pipecut.errors import PipecutError
from pipecut.runtime.health.rank_errors import print_error

try:
{body}
except PipecutError as error:
    print_error(error)
    os._exit(error.exit_code)
"""


@dataclass(frozen=True)
class Ended:
    """A rank that ended: its exit code and output."""

    code: int
    output: str


def run_ranks(
    folder: Path,
    bodies: Sequence[str],
    seconds: float = 120,
    environment: dict[str, str] | None = None,
) -> list[Ended]:
    """Run one Python process per body, and wait for all."""
    started = []
    for rank, body in enumerate(bodies):
        script = folder / f"rank_{rank}.py"
        indented = "\n".join(f"    {line}" for line in body.strip("\n").splitlines())
        script.write_text(SCRIPT.format(body=indented))
        place = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": len(bodies),
            "LOCAL_WORLD_SIZE": len(bodies),
        }
        variables = {
            **os.environ,
            **{name: str(value) for name, value in place.items()},
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
            STORE: str(folder / "store"),
            **(environment or {}),
        }
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(
            subprocess.Popen([sys.executable, str(script)], cwd=ROOT, env=variables, **pipes)
        )  # type: ignore[call-overload]
    outputs = [process.communicate(timeout=seconds)[0] for process in started]
    return [
        Ended(process.returncode, output) for process, output in zip(started, outputs, strict=True)
    ]
