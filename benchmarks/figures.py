"""Measured figures, in docs/figures.json; benchmarks/tables.py makes tables of them."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FILE = ROOT / "docs" / "figures.json"
Figures = dict[str, dict[str, Any]]


def read_figures(path: Path = FILE) -> dict[str, Figures]:
    """By benchmark, then by row."""
    figures: dict[str, Figures] = json.loads(path.read_text(encoding="utf-8"))
    return figures


def write_figures(benchmark: str, rows: Figures, path: Path = FILE) -> None:
    """Put in what a benchmark measured; rows that it did not run stay as they were."""
    figures = read_figures(path) if path.exists() else {}
    figures[benchmark] = {**figures.get(benchmark, {}), **rows}
    path.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def differing(expected: dict[str, Any], now: dict[str, Any], within: dict[str, float]) -> list[str]:
    """A line for each figure that differs.

    A figure that `within` names may differ by that part of itself; every other must be equal.
    """
    return [
        f"{name}: {value} in the file, {now.get(name)} now"
        for name, value in expected.items()
        if not _alike(value, now.get(name), within.get(name))
    ]


def _alike(expected: Any, now: Any, within: float | None) -> bool:
    if within is None:
        return bool(now == expected)
    if not isinstance(now, int | float):
        return False
    return bool(abs(now - expected) <= within * max(abs(now), abs(expected)))
