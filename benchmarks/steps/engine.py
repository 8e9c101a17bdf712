"""pipecut's engine beside torch.distributed.pipelining and beside the ideal: two gloo ranks of one thread each, in turn.

python -m benchmarks.steps.engine

The same stage modules and microbatches. The ideal is (m + p - 1) times what the slower stage takes for a microbatch, measured on
both ranks at once without any message. Also the unsplit model in one process of two threads.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.compiler.partition.program.solver import quiet_stdout
from pipecut.plan.folder import read_plan
from pipecut.runtime.launch.launch import launch

MICROBATCHES, ROUNDS = 8, 20
# Rows of a microbatch for about so many milliseconds of compute on a rank.
ROWS = {"20 ms": 320, "100 ms": 1664}
# Where each schedule's plan is cut; torch runs those of one stage a rank and one backward.
CUTS = {
    **dict.fromkeys(("1f1b", "gpipe", "zb-h1"), ["layers.6"]),
    **dict.fromkeys(("interleaved", "v-shaped"), ["layers.3", "layers.6", "layers.9"]),
}
BESIDE = ("1f1b", "gpipe")
# Over the ideal, at the most.
BAR = 1.08


def main() -> None:
    """Print the table and whether the bars are met."""
    table = Table(
        "compute",
        "schedule",
        "pipecut",
        "torch",
        "pipecut / ideal",
        "torch / ideal",
        "pipecut / torch",
        "unsplit / pipecut",
    )
    others = Table(
        "compute",
        *(f"{schedule} / 1f1b (predicted)" for schedule in CUTS if schedule not in BESIDE),
    )
    over: list[float] = []
    beside: list[float] = []
    short: list[float] = []
    with tempfile.TemporaryDirectory() as scratch, quiet_stdout():
        for name, rows in ROWS.items():
            folder = Path(scratch) / str(rows)
            folder.mkdir()
            plans = _plans(folder, rows)
            named = [f"{schedule}={plan}" for schedule, plan in plans.items()]
            launch(
                2,
                "benchmarks.steps.engine_ranks",
                [str(folder / "found.json"), str(ROUNDS), *named],
            )
            found = json.loads((folder / "found.json").read_text())
            alone = _unsplit(folder, rows)
            for schedule in BESIDE:
                ours, theirs, ideal = found[schedule], found[f"torch {schedule}"], found["ideal"]
                ratios = [
                    statistics.median(a / b for a, b in zip(x, y, strict=True))
                    for x, y in ((ours, ideal), (theirs, ideal), (ours, theirs))
                ]
                over.append(ratios[0])
                beside.append(ratios[2])
                step = statistics.median(ours)
                times = f"{step * 1e3:.0f} ms", f"{statistics.median(theirs) * 1e3:.0f} ms"
                table.add_row(
                    name, schedule, *times, *(f"{r:.3f}" for r in ratios), f"{alone / step:.2f}"
                )
            rest = [found[schedule] for schedule in CUTS if schedule not in BESIDE]
            ratios = [
                statistics.median(a / b for a, b in zip(x, found["1f1b"], strict=True))
                for x in rest
            ]
            steps = {
                schedule: read_plan(plan).plan.prediction.step_seconds
                for schedule, plan in plans.items()
            }
            foretold = [
                steps[schedule] / steps["1f1b"] for schedule in CUTS if schedule not in BESIDE
            ]
            others.add_row(
                name,
                *(
                    f"{ratio:.3f} ({before:.3f})"
                    for ratio, before in zip(ratios, foretold, strict=True)
                ),
            )
            short += [ratio / before - 1 for ratio, before in zip(ratios, foretold, strict=True)]
    console = Console(width=130)
    console.print(table)
    console.print(others)
    console.print(
        f"over the ideal by at most {max(over):.3f} (bar {BAR}); beside torch {statistics.median(beside):.3f} in the median, "
        f"{max(beside):.3f} at the most (bars: below 1, 1)"
    )
    console.print(
        f"the other schedules take up to {max(short):.1%} longer beside 1F1B than predicted"
    )


def _plans(folder: Path, rows: int) -> dict[str, Path]:
    """Plans of every schedule, cut evenly."""
    plans = {}
    for schedule, cuts in CUTS.items():
        job, plans[schedule] = folder / f"{schedule}.yaml", folder / schedule
        text = {
            "model": {"factory": "benchmarks.steps.engine_model:build", "args": {"rows": rows}},
            "inputs": "benchmarks.steps.engine_model:inputs",
            "batch": {"global": MICROBATCHES * rows, "microbatch": rows},
            "optimizer": "sgd",
            "placement": {"cut_before": cuts},
        }
        job.write_text(yaml.safe_dump(text))
        compile(
            job,
            "auto",
            plans[schedule],
            Options(SizeOverrides(stages=len(cuts) + 1, schedule=schedule), costs="roofline"),
        )
    return plans


def _unsplit(folder: Path, rows: int) -> float:
    """Median seconds of the same step in one process of two threads."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.steps.engine_model",
        str(rows),
        str(MICROBATCHES),
        str(ROUNDS),
    ]
    return float(
        subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path.cwd()).stdout
    )


if __name__ == "__main__":
    main()
