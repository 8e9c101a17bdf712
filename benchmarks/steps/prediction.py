"""Predicted against measured step time and peak memory, on two CPU ranks of one thread each.

python -m benchmarks.steps.prediction [NAME ...]
"""

import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.shapes import SHAPES, calibrated, profiled
from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.compiler.partition.program.solver import quiet_stdout
from pipecut.runtime.launch.launch import launch

STEPS, RUNS = 11, 2
# Bars, relative errors: of the step with profiled costs (in most cases, in all), with roofline
# costs, and of memory.
MOST, ALL, ROOFLINE, MEMORY = 0.10, 0.20, 0.35, 0.05


@dataclass(frozen=True)
class Errors:
    """Relative errors of a plan: of its step with profiled and roofline costs, and of memory."""

    profiled: float
    roofline: float
    memory: float


def run(plan: Path, report: Path) -> dict[str, Any]:
    """One run of a plan: its report."""
    with quiet_stdout():
        launch(2, "pipecut.runtime", [str(plan), "--steps", str(STEPS), "--report", str(report)])
    measured: dict[str, Any] = json.loads(report.read_text())
    return measured


def main() -> None:
    """Print the table and whether the bars are met."""
    names = sys.argv[1:] or list(SHAPES)
    table = Table(
        "model", "schedule", "measured", "profile", "roofline", "memory rank 0", "memory rank 1"
    )
    errors: list[Errors] = []
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
                reports = [
                    (run(plan, folder / "a.json"), run(rough, folder / "b.json"))
                    for _ in range(RUNS)
                ]
                # Medians of the ratios of each run: the machine's own speed drifts.
                profiled_error, roofline_error = (
                    statistics.median(
                        report[k]["predicted_step"] / report[k]["measured_step"] - 1
                        for report in reports
                    )
                    for k in (0, 1)
                )
                step = statistics.median(report["measured_step"] for report, _ in reports)
                first = reports[0][0]
                rows = zip(first["predicted"], first["measured"], strict=True)
                memory = [a["memory"] / b["memory"] - 1 for a, b in rows]
                error = Errors(profiled_error, roofline_error, max(memory, key=abs))
                errors.append(error)
                figures = (f"{e:+.1%}" for e in (profiled_error, roofline_error, *memory))
                table.add_row(name, schedule, f"{step * 1e3:.0f} ms", *figures)
    console = Console(width=120)
    console.print(table)
    within = sum(abs(error.profiled) <= MOST for error in errors)
    profiled_most = max(abs(error.profiled) for error in errors)
    roofline_most = max(abs(error.roofline) for error in errors)
    memory_most = max(abs(error.memory) for error in errors)
    console.print(
        f"profiled costs: {within} of {len(errors)} within {MOST:.0%},"
        f" all within {profiled_most:.0%} (bars: 10 of 12, {ALL:.0%});"
        f" roofline: all within {roofline_most:.0%} (bar {ROOFLINE:.0%});"
        f" memory: all within {memory_most:.1%} (bar {MEMORY:.0%})"
    )


if __name__ == "__main__":
    main()
