"""Partition generated graphs of 1,000 to 50,000 operators on 64 stages: seconds, gap, growth.

python -m benchmarks.compiles.scale [PNG]     docs/growth.png by default
"""

import math
import sys
import time
from pathlib import Path

import matplotlib
from rich.console import Console
from rich.table import Table

from benchmarks.compiles.generated import layered
from pipecut.compiler.partition.place import SolverOptions, place

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  (the backend is chosen first)

STAGES = 64
OPERATORS = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
# The bars at the largest size: seconds and relative gap.
SECONDS, GAP = 60.0, 0.02


def main() -> None:
    """Print a table, draw the picture, and say whether the bars are met."""
    target = (
        Path(sys.argv[1])
        if len(sys.argv) > 1
        else Path(__file__).parents[2] / "docs" / "growth.png"
    )
    table = Table(
        "operators", "stages", "bottleneck", "bound", "gap", "seconds", "microseconds per operator"
    )
    counts, spent, gap = [], [], 0.0
    for operators in OPERATORS:
        problem = layered(operators, STAGES)
        begin = time.perf_counter()
        _, c = place(problem, SolverOptions(), lambda count: (1,) * count)
        seconds, gap = time.perf_counter() - begin, c.gap
        count = len(problem.blocks)
        figures = (
            f"{c.objective * 1e3:.4f} ms",
            f"{c.bound * 1e3:.4f} ms",
            f"{gap:.4%}",
            f"{seconds:.2f}",
        )
        table.add_row(f"{count:,}", str(STAGES), *figures, f"{seconds / count * 1e6:.0f}")
        counts.append(count)
        spent.append(seconds)
    # The exponent of n log n that fits best, by least squares of the logarithms.
    x = [math.log(n * math.log(n)) for n in counts]
    y = [math.log(s) for s in spent]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    power = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum(
        (a - mean_x) ** 2 for a in x
    )
    draw(counts, spent, power, target)
    console = Console(width=120)
    console.print(table)
    console.print(f"seconds grow as (n log n)^{power:.2f}; drawn in {target}")
    met = spent[-1] < SECONDS and gap <= GAP
    console.print(f"bars at the largest size ({SECONDS:.0f} s, gap {GAP:.0%}) met: {met}")


def draw(counts: list[int], spent: list[float], power: float, target: Path) -> None:
    """Measured seconds beside n log n through the largest."""
    figure, axes = pyplot.subplots(figsize=(6.4, 4.0), layout="constrained")
    axes.loglog(counts, spent, "o-", label=f"measured, (n log n)^{power:.2f}")
    scale = spent[-1] / (counts[-1] * math.log(counts[-1]))
    axes.loglog(counts, [scale * n * math.log(n) for n in counts], "--", label="n log n")
    axes.set_xlabel("operators")
    axes.set_ylabel("seconds to partition")
    axes.set_title(f"Generated graphs on {STAGES} stages")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main()
