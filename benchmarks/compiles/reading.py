"""CPU seconds in which a rank reads a plan and proves its part, beside those of the whole proof.

python -m benchmarks.compiles.reading PLAN
"""

import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipecut.plan.check.check import check
from pipecut.plan.folder import read_plan
from pipecut.plan.part.check import check_part
from pipecut.plan.part.read import read_part


def main() -> None:
    """The first, a middle and the last rank; then all of it."""
    path = Path(sys.argv[1])
    table = Table("rank", "actions read", "reads", "proves", title=str(path))
    ranks = read_part(path, 0).plan.ranks
    for rank in dict.fromkeys((0, ranks // 2, ranks - 1)):
        begin = time.process_time()
        part = read_part(path, rank)
        read = time.process_time()
        check_part(part)
        _row(table, str(rank), sum(map(len, part.rows.values())), begin, read)
    begin = time.process_time()
    folder = read_plan(path)
    read = time.process_time()
    check(folder)
    _row(table, f"all {ranks}", sum(map(len, folder.actions)), begin, read)
    Console().print(table)


def _row(table: Table, name: str, actions: int, begin: float, read: float) -> None:
    proven = time.process_time()
    table.add_row(name, f"{actions:,}", f"{read - begin:.2f} s", f"{proven - read:.2f} s")


if __name__ == "__main__":
    main()
