"""The candidates of a search as a table for people, and the prices of the limits."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from pipecut.compiler.search.trial import Sensitivity, Trial
from pipecut.quantities import show_seconds

# More candidates than this say nothing new.
MOST = 40


def print_explained(
    tried: Sequence[Trial], prices: Sequence[Sensitivity], console: Console
) -> None:
    """The best candidate first, why each other one lost, and what one more device, memory or faster links would give."""
    table = Table(
        "stages",
        "replicas",
        "microbatch",
        "microbatches",
        "schedule",
        "step",
        "bubble",
        "recomputing",
        "why",
        title="candidates",
    )
    best = tried[0].step_seconds
    for one in tried[:MOST]:
        c = one.candidate
        sizes = str(c.stages), str(c.replicas), str(c.microbatch), str(c.microbatches), c.schedule
        if one.step_seconds is None or best is None:
            table.add_row(*sizes, "", "", "", one.why)
            continue
        slower = "chosen" if one is tried[0] else f"{one.step_seconds / best - 1:.1%} slower"
        if one.step_seconds < best:
            slower = (
                f"{1 - one.step_seconds / best:.1%} faster: no more than its prediction may be off"
            )
        recomputing = f"{one.recomputing} stages" if one.recomputing else ""
        table.add_row(
            *sizes, show_seconds(one.step_seconds), f"{one.bubble:.0%}", recomputing, slower
        )
    console.print(table)
    if len(tried) > MOST:
        console.print(f"and {len(tried) - MOST} more, none better")
    for price in prices:
        if price.step_seconds is None or best is None:
            console.print(f"{price.limit}: nothing that fits was found")
            continue
        gain = 1 - price.step_seconds / best
        effect = f"{gain:.1%} shorter" if gain > 5e-4 else "no shorter"
        console.print(f"{price.limit}: step {show_seconds(price.step_seconds)}, {effect}")
