"""Messages of the size that crosses the demo's boundary: predicted by calibrate, and measured.

python -m benchmarks.transfers
"""

import statistics
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from pipecut.calibrate.calibrate import RANK, calibrate
from pipecut.calibrate.measured import MachineReport
from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.compiler.partition.program.solver import quiet_stdout
from pipecut.runtime.launch.launch import launch

TURNS, BAR = 5, 0.15


def fresh(size: int, scratch: Path) -> float:
    """Median seconds of a message of so many bytes between two new ranks."""
    with quiet_stdout():
        launch(2, RANK, [str(scratch), "cpu", str(size)])
    return MachineReport.read(scratch).message_seconds[size]


def main() -> None:
    """Print each turn, the median of the errors, and whether the bar is met."""
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as folder:
        cluster, scratch = Path(folder) / "cluster.yaml", Path(folder) / "found.json"
        job = Path(__file__).parents[1] / "examples" / "demo.yaml"
        plan = compile(job, "auto", Path(folder) / "plan", Options(SizeOverrides(stages=2))).plan
        size = sum(t.bytes_for(plan.batch.largest) for t in plan.boundaries[0].tensors)
        errors = []
        for turn in range(TURNS):
            link = calibrate(2, "cpu", cluster)
            assert link is not None
            predicted, seconds = link.latency + size / link.bandwidth, fresh(size, scratch)
            errors.append(predicted / seconds - 1)
            console.print(
                f"turn {turn + 1}: {size:,} bytes in {seconds * 1e6:.0f} us,"
                f" predicted {predicted * 1e6:.0f} us"
            )
    error = statistics.median(errors)
    console.print(
        f"prediction of a message of the demo's boundary: {error:+.0%} in the median"
        f" (bar {BAR:.0%})"
    )
    sys.exit(abs(error) > BAR)


if __name__ == "__main__":
    main()
