"""Draw README's picture, docs/plan.svg: python -m benchmarks.compiles.picture demo-plan."""

import io
import sys
from pathlib import Path

from rich.console import Console

from pipecut.plan.folder import read_plan
from pipecut.tables.plan import print_plan


def main() -> None:
    """One argument, the plan folder."""
    plan = read_plan(Path(sys.argv[1])).plan
    console = Console(record=True, width=128, file=io.StringIO())
    print_plan(plan, console)
    target = Path(__file__).parents[2] / "docs" / "plan.svg"
    console.save_svg(str(target), title="pipecut show demo-plan/")
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
