"""A plan as a table for people."""

from typing import Literal

from rich.console import Console
from rich.table import Table

from pipecut.plan.schema import Plan
from pipecut.plan.schema.text import columns_of


def print_plan(plan: Plan, console: Console) -> None:
    """Stages, then the bottleneck, its bound and the gap, then the predicted step."""
    table = Table(title=plan.title)
    columns = columns_of(plan.stages)
    for column in columns:
        side: Literal["right", "left"] = "right" if column.right else "left"
        table.add_column(column.title, justify=side, overflow="fold")
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*cells)
    console.print(table)
    for line in plan.summary():
        console.print(line)
