"""Measured steps of pipecut's cuts beside those of other rules, step by step in turn.

python -m benchmarks.steps.cuts [NAME ...]

Two CPU ranks of one thread each. Also what recording a trace costs, on the same plans.
"""

import statistics
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.shapes import SHAPES, calibrated, profiled
from benchmarks.steps.baselines import BASELINES
from benchmarks.steps.turns import in_turn
from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.compiler.partition.place import SolverOptions
from pipecut.compiler.partition.program.solver import quiet_stdout

ROUNDS = 12
RULES = ("equal count", "equal parameters", "chain by time")
# Bars, as parts of a step: pipecut's cut may be so much slower than any rule's; where layers are
# unequal it must be so much faster than the slowest rule's; recording may cost so much.
NOISE, BETTER, RECORDING = 0.02, 0.10, 0.01
UNEQUAL = ("BERT", "ResNet", "U-Net")


def main() -> None:
    """Print the table and whether the bars are met."""
    table = Table(
        "model", "schedule", "step", *(f"{rule} / pipecut" for rule in RULES), "recording"
    )
    least: list[float] = []
    best: dict[str, float] = {}
    recording = []
    with tempfile.TemporaryDirectory() as scratch, quiet_stdout():
        folder = Path(scratch)
        cluster = calibrated(folder)
        for name in sys.argv[1:] or SHAPES:
            job, store = profiled(name, folder)
            for schedule in ("gpipe", "1f1b"):
                plans = []
                for at, solving in enumerate(
                    [SolverOptions(), *(SolverOptions(rule=BASELINES[rule]) for rule in RULES)]
                ):
                    plan = folder / f"{job.stem}-{schedule}-{at}"
                    compile(
                        job,
                        cluster,
                        plan,
                        Options(
                            SizeOverrides(stages=2, schedule=schedule),
                            False,
                            "profile",
                            store,
                            solving,
                        ),
                    )
                    plans.append(str(plan))
                rows = in_turn([*plans, f"record:{plans[0]}"], ROUNDS, folder)
                ratios = [
                    statistics.median(row[at] / row[0] for row in rows)
                    for at in range(1, len(plans) + 1)
                ]
                *of_rules, recorded = ratios
                least.append(min(of_rules))
                best[name] = max(best.get(name, 0.0), *of_rules)
                recording.append(recorded - 1)
                step = statistics.median(row[0] for row in rows)
                table.add_row(
                    name,
                    schedule,
                    f"{step * 1e3:.0f} ms",
                    *(f"{r:.2f}" for r in of_rules),
                    f"{recorded - 1:+.1%}",
                )
    console = Console(width=120)
    console.print(table)
    unequal = ", ".join(f"{name} {best[name] - 1:+.0%}" for name in UNEQUAL if name in best)
    console.print(
        f"slowest beside another rule: {min(least):.2f} (bar {1 - NOISE:.2f}); "
        f"the worst rule where layers differ: {unequal} (bar {BETTER:+.0%}); "
        f"recording {statistics.median(recording):+.1%} in the median (bar {RECORDING:.0%})"
    )


if __name__ == "__main__":
    main()
