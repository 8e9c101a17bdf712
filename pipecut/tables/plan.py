"""A plan as a table for people."""

from typing import Literal

from rich.console import Console
from rich.table import Table

from pipecut.plan.schema import Plan
from pipecut.plan.schema.text import columns_of, summary_of, title_of


def print_plan(plan: Plan, console: Console) -> None:
    """Stages, then the bottleneck, its bound and the gap, then the predicted step."""
    table = Table(title=title_of(plan))
    columns = columns_of(plan)
    for column in columns:
        side: Literal["right", "left"] = "right" if column.right else "left"
        table.add_column(column.title, justify=side, overflow="fold")
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*cells)
    console.print(table)
    for line in summary_of(plan):
        console.print(line)
