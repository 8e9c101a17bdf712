"""Measured figures in one file, docs/figures.json, which the documents' tables are made from (benchmarks/tables.py)."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FILE = ROOT / "docs" / "figures.json"
Figures = dict[str, dict[str, Any]]


def read_figures(path: Path = FILE) -> dict[str, Figures]:
    """By benchmark, then by row."""
    found: dict[str, Figures] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write_figures(benchmark: str, rows: Figures, path: Path = FILE) -> None:
    """Put in what a benchmark measured; rows that it did not run stay as they were."""
    known = read_figures(path) if path.exists() else {}
    known[benchmark] = {**known.get(benchmark, {}), **rows}
    path.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def differing(
    expected: dict[str, Any], found: dict[str, Any], within: dict[str, float]
) -> list[str]:
    """What is not as it was: figures named in `within` may be that part of themselves apart; others must be equal."""
    result = []
    for name, value in expected.items():
        now = found.get(name)
        allowed = within.get(name)
        if allowed is None:
            same = now == value
        else:
            same = isinstance(now, int | float) and abs(now - value) <= allowed * max(
                abs(now), abs(value)
            )
        if not same:
            result.append(f"{name}: {value} in the file, {now} now")
    return result
