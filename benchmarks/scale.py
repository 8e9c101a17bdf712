"""Seconds and gap of partitioning generated graphs of 1,000 to 50,000 operators on 64 stages."""

import time

from rich.console import Console
from rich.table import Table

from benchmarks.generated import layered
from pipecut.compiler.partition.place import Solving, place

STAGES = 64
# The bars at the largest size: seconds and relative gap.
SECONDS, GAP = 60.0, 0.02


def main() -> None:
    """Print a table, and whether the bars are met."""
    table = Table("operators", "stages", "bottleneck", "bound", "gap", "seconds", "microseconds an operator")
    seconds = gap = 0.0
    for operators in (1_000, 5_000, 20_000, 50_000):
        problem = layered(operators, STAGES)
        begin = time.perf_counter()
        _, c = place(problem, Solving(), lambda count: (1,) * count)
        seconds, gap = time.perf_counter() - begin, c.gap
        count = len(problem.blocks)
        figures = f"{c.objective * 1e3:.4f} ms", f"{c.bound * 1e3:.4f} ms", f"{gap:.2%}", f"{seconds:.2f}"
        table.add_row(f"{count:,}", str(STAGES), *figures, f"{seconds / count * 1e6:.0f}")
    console = Console(width=120)
    console.print(table)
    console.print(f"bars at the largest size ({SECONDS:.0f} s, gap {GAP:.0%}) met: {seconds < SECONDS and gap <= GAP}")


if __name__ == "__main__":
    main()
