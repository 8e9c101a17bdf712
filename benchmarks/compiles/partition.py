"""The published workloads: what is proven, how long it takes, and what peers' ways of cutting cost on the same graph.

python -m benchmarks.compiles.partition FOLDER     the folder has NAME.json files and optima.json
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.steps.baselines import BASELINES
from pipecut.compiler.partition.load import loads
from pipecut.compiler.partition.place import SolverOptions, place
from pipecut.compiler.partition.reduce import lossless
from pipecut.compiler.partition.standalone.read import read_problem

# The bars: relative distance from the optimum, seconds for one and for all.
WITHIN, ONE, ALL = 1e-6, 10.0, 40.0
# Twice as many stages are a harder problem: so long for each.
SEVERAL = 20.0
TITLE = f"two stages a device, in turns; {SEVERAL:.0f} s each"


def main() -> None:
    """Print three tables and whether each bar is met; exit 1 when one is not."""
    folder = (
        Path(sys.argv[1])
        if len(sys.argv) > 1
        else Path(__file__).parents[3] / "shared" / "workloads"
    )
    console = Console(width=150)
    if not (folder / "optima.json").exists():
        console.print(
            f"no published workloads in {folder}; name their folder: python -m benchmarks.compiles.partition FOLDER"
        )
        return
    optima = json.loads((folder / "optima.json").read_text())
    solved = Table(
        "workload",
        "devices",
        "blocks",
        "reduced",
        "objective",
        "bound",
        "from optimum",
        "proven",
        "seconds",
    )
    several = Table(
        "workload",
        "devices",
        "objective",
        "bound",
        "below one stage a device",
        "proven",
        "seconds",
        title=TITLE,
    )
    beside = Table(
        "workload",
        *BASELINES,
        "human expert",
        title="load over pipecut's: how many times slower the pipeline is",
    )
    met, total = True, 0.0
    for name, known in optima.items():
        problem, _ = read_problem(folder / f"{name}.json", known["devices"], None, None)
        reduced, _ = lossless(problem)
        stages, c = place(problem, SolverOptions("highs", 60.0, 1e-7), lambda count: (0,) * count)
        apart = c.objective / known["optimum"] - 1
        met = met and apart <= WITHIN and c.proven and c.seconds < ONE
        total += c.seconds
        sizes = str(len(problem.blocks)), str(len(reduced.blocks))
        figures = (
            f"{c.objective:.6f}",
            f"{c.bound:.6f}",
            f"{apart:+.1e}",
            str(c.proven),
            f"{c.seconds:.2f}",
        )
        solved.add_row(name, str(known["devices"]), *sizes, *figures)
        worse = [
            max(loads(problem, baseline(problem))) / c.objective for baseline in BASELINES.values()
        ]
        expert = f"{known['expert'] / c.objective:.2f}" if "expert" in known else "-"
        count = known["devices"]
        turns = replace(
            problem, stage_devices=problem.stage_devices * 2, devices=tuple(range(count)) * 2
        )
        _, two = place(turns, SolverOptions("highs", SEVERAL, 1e-7), lambda stages: (0,) * stages)
        below = f"{1 - two.objective / c.objective:.2%}"
        figures = (
            f"{two.objective:.6f}",
            f"{two.bound:.6f}",
            below,
            str(two.proven),
            f"{two.seconds:.1f}",
        )
        several.add_row(name, str(count), *figures)
        beside.add_row(name, *(f"{ratio:.2f}" for ratio in worse), expert)
    console.print(solved)
    console.print(beside)
    console.print(several)
    met = met and total < ALL
    console.print(
        f"all eight in {total:.1f} s; bars (within {WITHIN:g}, proven, {ONE:.0f} s each, {ALL:.0f} s all) met: {met}"
    )
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
