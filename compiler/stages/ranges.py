"""Ascending numbers as text."""

from collections.abc import Iterable


def ranges(numbers: Iterable[int]) -> list[str]:
    """`0-4` for numbers that follow each other, `7` for one that stands alone."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return [str(first) if first == last else f"{first}-{last}" for first, last in runs]
