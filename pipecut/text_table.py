"""Values as tables of plain text, for people and for golden tests."""

from collections.abc import Iterable, Sequence
from itertools import pairwise


def text_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces between them, no spaces at line ends."""
    lines = [titles, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def numbers(values: Iterable[int]) -> str:
    """Numbers in order, runs shortened: `0-3, 7`; `-` for none."""
    return ", ".join(ranges(values)) or "-"


def ranges(values: Iterable[int]) -> list[str]:
    """Each run of numbers that follow each other: `0-3`, or `7` where one has no neighbour."""
    ordered = sorted(set(values))
    if not ordered:
        return []
    starts = [ordered[0], *(after for before, after in pairwise(ordered) if after != before + 1)]
    ends = [*(before for before, after in pairwise(ordered) if after != before + 1), ordered[-1]]
    runs = zip(starts, ends, strict=True)
    return [str(first) if first == last else f"{first}-{last}" for first, last in runs]
