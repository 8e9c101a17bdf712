"""Families of models: what is run, what is kept of it, how processes end, and a small zoo whole."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.families.__main__ import to_run
from benchmarks.families.outcome import (
    Kind,
    Outcome,
    append_outcome,
    digest_of_code,
    read_outcomes,
    shortened,
    sort_outcomes,
)
from benchmarks.families.tables import bar, counts, exact, made_of, others
from benchmarks.families.zoo import names_in
from benchmarks.figures import ROOT

ZOO = '''"""Three models."""
import torch
from torch import nn
import torch.nn.functional as F


class Draws(nn.Sequential):
    def forward(self, input):
        import random

        return super().forward(input) * random.random()


def build(name):
    if name == "not:built":
        raise KeyError(name)
    layers = [nn.Linear(8, 8) for _ in range(3)]
    return Draws(*layers) if name == "draws:python" else nn.Sequential(*layers)


def inputs(name, samples):
    return {"input": torch.randn(samples, 8)}


def loss(name):
    return lambda output, batch: output.square().mean()
'''
FORKS = """
import os, sys, time
from pathlib import Path
from benchmarks.families.processes import Work, run_forked

def end(code):
    print("said", os.environ["WHO"])
    return code

def stay():
    os.system("sleep 60")
    return 0

def fail():
    raise ValueError("no")

folder = Path(sys.argv[1])
calls = [lambda: end(0), lambda: end(3), stay, fail]
works = [Work(c, {"WHO": str(n)}, folder / str(n)) for n, c in enumerate(calls)]
print([(e.code, e.printed.strip().splitlines()[-1:]) for e in run_forked(works, 50)])
print([e.code for e in run_forked(works[2:3], 0.1)])
"""


def outcome(name: str, kind: Kind = Kind.EXACT, code: str = "now", **rest: object) -> Outcome:
    return Outcome(name, kind, code, "abc1234", {"torch": "2.13.0"}, **rest)  # type: ignore[arg-type]


def test_the_last_line_of_a_name_holds(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for kind in (Kind.REFUSED, Kind.EXACT):
        append_outcome(outcome("b", kind), path)
        append_outcome(outcome("a", kind), path)
    assert len(path.read_text().splitlines()) == 4
    sort_outcomes(path)
    assert len(path.read_text().splitlines()) == 2
    assert list(read_outcomes(path).values()) == [outcome("a"), outcome("b")]


def test_only_what_this_code_has_not_done_is_run(tmp_path: Path) -> None:
    (tmp_path / "models.txt").write_text("# name\na  pass\nb\nc\nd\n")
    known = {
        "a": outcome("a"),
        "b": outcome("b", code="before"),
        "c": outcome("c", Kind.REFUSED, "before"),
    }

    def names(*words: str, again: bool = False) -> list[str]:
        asked = argparse.Namespace(names=list(words), again=again, zoo=tmp_path)
        return to_run(asked, known, "now")

    assert names() == ["b", "c", "d"]
    assert names("a", "x") == ["a", "x"]
    assert names(again=True) == ["c"] == names("c", "a", again=True)


def test_a_zoo_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="models.txt.*--zoo FOLDER"):
        names_in(tmp_path)


def test_the_code_is_what_pipecut_runs() -> None:
    assert digest_of_code() == digest_of_code() != digest_of_code(folders=("pipecut",))


def test_tables_say_what_happened() -> None:
    rows = [
        outcome("z", difference=0.0, seconds=4.2),
        outcome("a", difference=2.5e-7, seconds=61.0),
        outcome("r", Kind.REFUSED, reason="no | way\nout <here>"),
        outcome("i", Kind.INEXACT, difference=1.0, reason="gradient w"),
    ]
    assert "| exact, 1 of them bitwise | 2 |" in counts(rows) and "| all | 4 |" in counts(rows)
    assert bar(rows).splitlines()[2:] == [
        "| exact | at least 200 | 2 |",
        "| inexact | 0 | 1 |",
        "| failed | 0 | 0 |",
        "| timeout | 0 | 0 |",
        "| CPU seconds of the slowest compile | at most 60 | 61 (`a`) |",
    ]
    assert exact(rows).splitlines()[2:] == [
        "| `a` | within 2.5e-07 | 61 |",
        "| `z` | bitwise | 4 |",
    ]
    assert others(rows).splitlines()[2:] == [
        "| `i` | inexact | gradient w |",
        "| `r` | refused | no way out &lt;here> |",
    ]
    assert made_of(rows).splitlines()[2:] == ["| pipecut | abc1234 | 4 |", "| torch | 2.13.0 | 4 |"]


def test_messages_name_no_folder_of_this_machine() -> None:
    assert shortened("(at /a/lib-1/site-packages/timm/x.py:3)") == "(at timm/x.py:3)"
    assert shortened("(at /home/me/zoo/repros.py:78)") == "(at repros.py:78)"
    assert shortened("and/or, 3/4") == "and/or, 3/4"


def test_forked_processes_end_with_the_first_that_fails(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKS, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "[(0, ['said 0']), (3, ['said 1']), (None, []), (70, ['ValueError: no'])]",
        "[None]",
    ], done.stderr


@pytest.mark.slow
def test_a_zoo_is_run_and_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "zoo.py").write_text(ZOO)
    (tmp_path / "models.txt").write_text("plain:linear\ndraws:python\nnot:built\n")
    results = tmp_path / "results.jsonl"
    words = ["-m", "benchmarks.families", "--zoo", str(tmp_path), "--results", str(results)]

    def run(*more: str) -> str:
        command = [sys.executable, *words, *more]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "1 exact, 1 refused, 1 not built by the harness" in run()
    known = read_outcomes(results)
    assert known["plain:linear"].kind is Kind.EXACT
    assert "draws" in known["draws:python"].reason
    assert known["not:built"].reason == "KeyError: 'not:built'"
    assert run().strip() == "nothing"
    assert "1 refused" in run("--again")
