"""Computes of all ranks as a picture: a row per rank, a column per unit of time."""

from collections.abc import Callable, Mapping, Sequence

from pipecut.plan.actions import Compute

# Columns of a picture of what stands still: where it came from is of no use.
MOST_MOMENTS = 24


def picture_of(
    rows: Sequence[Sequence[Compute]],
    starts: Mapping[Compute, int],
    text_of: Callable[[Compute], str],
    most_moments: int | None = None,
) -> str:
    """What each rank does in each unit of time, the last `most_moments` of them.

    A compute without a start follows behind `>` where its rank stands still before it.
    """
    last = max(starts.values(), default=-1) + 1
    first = max(0, last - most_moments) if most_moments is not None else 0
    table = [[_cell(row, starts, moment, text_of) for moment in range(first, last)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for rank, (row, cells) in enumerate(zip(rows, table, strict=True)):
        stuck = next((compute for compute in row if compute not in starts), None)
        end = [f">{text_of(stuck)}"] if stuck is not None else []
        # Pauses behind a rank's last compute say nothing.
        while cells and cells[-1] == "." and stuck is None:
            cells.pop()
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
        begin = ["..."] if first else []
        lines.append(" ".join([f"rank {rank}  ", *begin, *padded, *end]).rstrip())
    return "\n".join(lines)


def _cell(
    row: Sequence[Compute],
    starts: Mapping[Compute, int],
    moment: int,
    text_of: Callable[[Compute], str],
) -> str:
    return next((text_of(c) for c in row if starts.get(c) == moment), ".")
