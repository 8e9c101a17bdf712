"""Whatever stands in a plan, a job or a cluster file, it is read or refused, and none of its code runs."""

import sys
from pathlib import Path

import pytest

from benchmarks.fuzz import run

ROOT = Path(__file__).parents[2]


def test_mutated_files_are_read_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    found = run(250, 1, tmp_path)
    assert sum(found.values()) == 250
    # Mutations that all fail, or none, would try little.
    assert all(found[f"{kind} {end}"] for kind in ("plan", "job", "cluster") for end in ("read", "refused")), found
    assert not list(tmp_path.rglob("PWNED"))
