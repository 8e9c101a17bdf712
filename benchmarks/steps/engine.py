"""pipecut's engine beside torch.distributed.pipelining and beside the ideal, in turn.

python -m benchmarks.steps.engine

Two gloo ranks of one thread each, the same stage modules and microbatches. The ideal is (m + p - 1)
times what the slower stage takes for a microbatch, measured on both ranks at once without any
message. Also the unsplit model in one process of two threads.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.compiler.partition.program.solver import quiet_stdout
from pipecut.compiler.schedules.registry import SCHEDULES
from pipecut.plan.folder import read_plan
from pipecut.runtime.launch.launch import launch

MICROBATCHES, ROUNDS = 8, 20
# Rows of a microbatch for about so many milliseconds of compute on a rank.
ROWS = {"20 ms": 320, "100 ms": 1664}
# Where each schedule's plan is cut; torch runs those with one stage per rank and one backward.
CUTS = {
    name: ["layers.6"] if schedule.stages_per_rank == 1 else ["layers.3", "layers.6", "layers.9"]
    for name, schedule in SCHEDULES.items()
}
BESIDE = ("1f1b", "gpipe")
ONLY_PIPECUT = [schedule for schedule in CUTS if schedule not in BESIDE]
# Over the ideal, at the most.
BAR = 1.08


@dataclass(frozen=True)
class Ratios:
    """Medians over the rounds of one schedule: of pipecut's step and of torch's, and seconds."""

    seconds: float
    torch_seconds: float
    over_ideal: float
    torch_over_ideal: float
    over_torch: float


def main() -> None:
    """Print the tables and whether the bars are met."""
    beside_torch = Table(
        "compute",
        "schedule",
        "pipecut",
        "torch",
        "pipecut / ideal",
        "torch / ideal",
        "pipecut / torch",
        "unsplit / pipecut",
    )
    beside_1f1b = Table("compute", *(f"{name} / 1f1b (predicted)" for name in ONLY_PIPECUT))
    ratios: list[Ratios] = []
    short: list[float] = []
    with tempfile.TemporaryDirectory() as scratch, quiet_stdout():
        for name, rows in ROWS.items():
            folder = Path(scratch) / str(rows)
            folder.mkdir()
            plans = _plans(folder, rows)
            rounds = _rounds(folder, plans)
            unsplit = _unsplit(folder, rows)
            for schedule in BESIDE:
                ratios.append(_ratios(rounds, schedule))
                beside_torch.add_row(name, schedule, *_cells(ratios[-1], unsplit))
            pairs = [_beside_1f1b(rounds, plans, schedule) for schedule in ONLY_PIPECUT]
            beside_1f1b.add_row(name, *(f"{ran:.3f} ({said:.3f})" for ran, said in pairs))
            short += [ran / said - 1 for ran, said in pairs]
    console = Console(width=130)
    console.print(beside_torch)
    console.print(beside_1f1b)
    over_ideal = max(row.over_ideal for row in ratios)
    over_torch = [row.over_torch for row in ratios]
    console.print(
        f"over the ideal by at most {over_ideal:.3f} (bar {BAR}); beside torch"
        f" {statistics.median(over_torch):.3f} in the median, {max(over_torch):.3f} at most"
        " (bars: below 1, 1)"
    )
    console.print(
        f"the other schedules take up to {max(short):.1%} longer beside 1F1B than predicted"
    )


def _rounds(folder: Path, plans: dict[str, Path]) -> dict[str, list[float]]:
    """Seconds of each round, by schedule."""
    file = folder / "rounds.json"
    named = [f"{schedule}={plan}" for schedule, plan in plans.items()]
    launch(2, "benchmarks.steps.engine_ranks", [str(file), str(ROUNDS), *named])
    rounds: dict[str, list[float]] = json.loads(file.read_text())
    return rounds


def _ratio(numerators: list[float], denominators: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def _ratios(rounds: dict[str, list[float]], schedule: str) -> Ratios:
    ours, theirs, ideal = rounds[schedule], rounds[f"torch {schedule}"], rounds["ideal"]
    return Ratios(
        seconds=statistics.median(ours),
        torch_seconds=statistics.median(theirs),
        over_ideal=_ratio(ours, ideal),
        torch_over_ideal=_ratio(theirs, ideal),
        over_torch=_ratio(ours, theirs),
    )


def _cells(row: Ratios, unsplit: float) -> list[str]:
    seconds = [f"{seconds * 1e3:.0f} ms" for seconds in (row.seconds, row.torch_seconds)]
    ratios = [f"{r:.3f}" for r in (row.over_ideal, row.torch_over_ideal, row.over_torch)]
    return [*seconds, *ratios, f"{unsplit / row.seconds:.2f}"]


def _beside_1f1b(
    rounds: dict[str, list[float]], plans: dict[str, Path], schedule: str
) -> tuple[float, float]:
    """The step over that of 1F1B: measured, and predicted."""
    predicted, of_1f1b = (
        read_plan(plans[name]).plan.prediction.step_seconds for name in (schedule, "1f1b")
    )
    return _ratio(rounds[schedule], rounds["1f1b"]), predicted / of_1f1b


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
