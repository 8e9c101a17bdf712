"""Every mutated file is read or refused, soon and in little memory; none of its code runs."""

import sys
from pathlib import Path

import pytest

from benchmarks.fuzz.files import run

ROOT = Path(__file__).parents[2]
QUICK = ("plan", "schedule", "graph", "cluster", "job", "profile", "report")


@pytest.mark.parametrize(
    ("mutations", "kinds"),
    [(40, QUICK), pytest.param(300, (*QUICK, "stage", "checkpoint"), marks=pytest.mark.slow)],
)
def test_mutated_files_are_read_or_refused(
    mutations: int, kinds: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    found = run(mutations, 1, tmp_path, kinds)
    assert sum(found.values()) == mutations * len(kinds)
    # Mutations that all fail, or none, would try little.
    assert all(found[f"{kind} {end}"] for kind in kinds for end in ("read", "refused")), found
    assert not list(tmp_path.rglob("PWNED"))
