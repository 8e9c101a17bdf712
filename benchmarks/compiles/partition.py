"""The published workloads: what is proven, in what time, and how other ways of cutting compare.

python -m benchmarks.compiles.partition FOLDER     the folder has NAME.json files and optima.json
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.steps.baselines import BASELINES
from pipecut.compiler.partition.load import loads
from pipecut.compiler.partition.place import SolverOptions, place
from pipecut.compiler.partition.placement import Certificate
from pipecut.compiler.partition.problem import Problem
from pipecut.compiler.partition.reduce import lossless
from pipecut.compiler.partition.standalone.read import read_problem

# The bars: relative distance from the optimum, seconds for each workload and for all.
WITHIN, EACH, ALL = 1e-6, 10.0, 40.0
# Seconds for each workload with twice as many stages, a harder problem.
SEVERAL = 20.0
TITLE = f"two stages per device, in turns; {SEVERAL:.0f} s each"


@dataclass(frozen=True)
class Solved:
    """What came of one workload: certificates of one and of two stages per device, and ratios.

    `ratios` are the loads of other ways to cut over that of pipecut's.
    """

    blocks: int
    reduced: int
    certificate: Certificate
    two_stages: Certificate
    ratios: tuple[float, ...]


def solve(file: Path, devices: int) -> Solved:
    """Place a workload on one stage per device, on two, and as others do."""
    problem = read_problem(file, devices).problem
    reduced, _ = lossless(problem)
    certificate = _place(problem, 60.0)
    turns = replace(
        problem, stage_devices=problem.stage_devices * 2, devices=tuple(range(devices)) * 2
    )
    ratios = [
        max(loads(problem, baseline(problem))) / certificate.objective
        for baseline in BASELINES.values()
    ]
    return Solved(
        len(problem.blocks),
        len(reduced.blocks),
        certificate,
        _place(turns, SEVERAL),
        tuple(ratios),
    )


def _place(problem: Problem, seconds: float) -> Certificate:
    _, certificate = place(
        problem, SolverOptions("highs", seconds, 1e-7), lambda stages: (0,) * stages
    )
    return certificate


def main() -> None:
    """Print three tables and whether each bar is met; exit 1 when one is not."""
    shared = Path(__file__).parents[3] / "shared" / "workloads"
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else shared
    console = Console(width=150)
    if not (folder / "optima.json").exists():
        console.print(
            f"no published workloads in {folder};"
            " name their folder: python -m benchmarks.compiles.partition FOLDER"
        )
        return
    optima: dict[str, dict[str, Any]] = json.loads((folder / "optima.json").read_text())
    solved = {name: solve(folder / f"{name}.json", row["devices"]) for name, row in optima.items()}
    for table in (_proven(solved, optima), _ratios(solved, optima), _two_stages(solved, optima)):
        console.print(table)
    total = sum(row.certificate.seconds for row in solved.values())
    met = total < ALL and all(
        row.certificate.objective / optima[name]["optimum"] - 1 <= WITHIN
        and row.certificate.proven
        and row.certificate.seconds < EACH
        for name, row in solved.items()
    )
    bars = f"within {WITHIN:g}, proven, {EACH:.0f} s each, {ALL:.0f} s all"
    console.print(f"all eight in {total:.1f} s; bars ({bars}) met: {met}")
    sys.exit(0 if met else 1)


def _proven(solved: dict[str, Solved], optima: dict[str, dict[str, Any]]) -> Table:
    table = Table(
        *("workload", "devices", "blocks", "reduced", "objective", "bound"),
        *("from optimum", "proven", "seconds"),
    )
    for name, row in solved.items():
        c = row.certificate
        table.add_row(
            name,
            str(optima[name]["devices"]),
            str(row.blocks),
            str(row.reduced),
            f"{c.objective:.6f}",
            f"{c.bound:.6f}",
            f"{c.objective / optima[name]['optimum'] - 1:+.1e}",
            str(c.proven),
            f"{c.seconds:.2f}",
        )
    return table


def _ratios(solved: dict[str, Solved], optima: dict[str, dict[str, Any]]) -> Table:
    table = Table(
        "workload",
        *BASELINES,
        "human expert",
        title="load over pipecut's: how many times slower the pipeline is",
    )
    for name, row in solved.items():
        expert = optima[name].get("expert")
        of_expert = f"{expert / row.certificate.objective:.2f}" if expert is not None else "-"
        table.add_row(name, *(f"{ratio:.2f}" for ratio in row.ratios), of_expert)
    return table


def _two_stages(solved: dict[str, Solved], optima: dict[str, dict[str, Any]]) -> Table:
    table = Table(
        *("workload", "devices", "objective", "bound", "below one stage per device"),
        *("proven", "seconds"),
        title=TITLE,
    )
    for name, row in solved.items():
        c = row.two_stages
        table.add_row(
            name,
            str(optima[name]["devices"]),
            f"{c.objective:.6f}",
            f"{c.bound:.6f}",
            f"{1 - c.objective / row.certificate.objective:.2%}",
            str(c.proven),
            f"{c.seconds:.1f}",
        )
    return table


if __name__ == "__main__":
    main()
