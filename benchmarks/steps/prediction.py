"""Predicted against measured on two CPU ranks of one thread each: step time and peak memory, and partitions beside baselines.

python -m benchmarks.steps.prediction [NAME ...]
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.shapes import SHAPES, calibrated, profiled
from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.compiler.partition.program.solver import quiet_stdout
from pipecut.runtime.launch.launch import launch

STEPS, RUNS = 11, 2
# Bars: relative errors of the step with profiled costs (most cases, all cases) and roofline, and of memory.
MOST, ALL, ROOFLINE, MEMORY = 0.10, 0.20, 0.35, 0.05


def run(plan: Path, report: Path) -> dict[str, Any]:
    """One run of a plan: its report."""
    with quiet_stdout():
        launch(2, "pipecut.runtime", [str(plan), "--steps", str(STEPS), "--report", str(report)])
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def main() -> None:
    """Print the table and whether the bars are met."""
    names = sys.argv[1:] or list(SHAPES)
    table = Table(
        "model", "schedule", "measured", "profile", "roofline", "memory rank 0", "memory rank 1"
    )
    errors: list[tuple[float, float, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        cluster = calibrated(folder)
        for name in names:
            job, store = profiled(name, folder)
            for schedule in ("gpipe", "1f1b"):
                sizes = SizeOverrides(stages=2, schedule=schedule)
                plan, rough = (
                    folder / f"{job.stem}-{schedule}",
                    folder / f"{job.stem}-{schedule}-roofline",
                )
                compile(job, cluster, plan, Options(sizes, costs="profile", profile=store))
                compile(job, cluster, rough, Options(sizes, costs="roofline"))
                found = [
                    (run(plan, folder / "a.json"), run(rough, folder / "b.json"))
                    for _ in range(RUNS)
                ]
                # Medians of the ratios of each run: the machine's own speed drifts.
                error = [
                    statistics.median(
                        one[k]["predicted_step"] / one[k]["measured_step"] - 1 for one in found
                    )
                    for k in (0, 1)
                ]
                measured = statistics.median(one[0]["measured_step"] for one in found)
                rows = zip(found[0][0]["predicted"], found[0][0]["measured"], strict=True)
                memory = [a["memory"] / b["memory"] - 1 for a, b in rows]
                errors.append((error[0], error[1], max(memory, key=abs)))
                figures = f"{error[0]:+.1%}", f"{error[1]:+.1%}", *(f"{one:+.1%}" for one in memory)
                table.add_row(name, schedule, f"{measured * 1e3:.0f} ms", *figures)
    console = Console(width=120)
    console.print(table)
    within = sum(abs(error) <= MOST for error, _, _ in errors)
    console.print(
        f"profiled costs: {within} of {len(errors)} within {MOST:.0%}, all within {max(abs(e) for e, _, _ in errors):.0%} "
        f"(bars: 10 of 12, {ALL:.0%}); roofline: all within {max(abs(e) for _, e, _ in errors):.0%} (bar {ROOFLINE:.0%}); "
        f"memory: all within {max(abs(m) for _, _, m in errors):.1%} (bar {MEMORY:.0%})"
    )


if __name__ == "__main__":
    main()
