"""Compile small models of many families, and compare a step with the unsplit model.

python -m benchmarks.families                      those without a result of this code of pipecut
python -m benchmarks.families NAME ...             these
python -m benchmarks.families --again [NAME ...]   those (of these) that were not exact last time

    --zoo FOLDER      where models.txt and zoo.py are; default ../shared/zoo beside the checkout
    --results FILE    a line per model, written when it is done; default docs/families.jsonl
    --jobs N          models at once; default half the cores
    --limit SECONDS   the longest that compiling, a step or the unsplit model may take; default 300

Needs `pip install -e '.[families]'`. A benchmark that was stopped goes on where it was. Afterwards
`python -m benchmarks.tables` makes docs/families.md of the results. Exit code 1 where a model was
inexact or failed otherwise than with a message.
"""

import argparse
import subprocess
import sys
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.families.outcome import (
    RESULTS,
    UNDONE,
    Kind,
    Outcome,
    append_outcome,
    digest_of_code,
    read_outcomes,
    sort_outcomes,
)
from benchmarks.families.workers import MOST, Worker, outcomes_of
from benchmarks.families.zoo import DEFAULT, names_in
from benchmarks.figures import ROOT

LIBRARIES = ("torch", "transformers", "timm", "torchvision", "diffusers", "peft")
WRONG = (Kind.INEXACT, Kind.FAILED, Kind.TIMEOUT)


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.families",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=argparse.SUPPRESS,
    )
    parser.add_argument("names", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--again", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--zoo", type=Path, default=DEFAULT, help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=RESULTS, help=argparse.SUPPRESS)
    parser.add_argument("--jobs", type=int, default=MOST, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, default=300.0, help=argparse.SUPPRESS)
    return parser.parse_args()


def to_run(asked: argparse.Namespace, known: dict[str, Outcome], code: str) -> list[str]:
    """Names whose outcome is asked for."""
    names = list(dict.fromkeys(asked.names)) or names_in(asked.zoo)
    if asked.again:
        return [name for name in names if name in known and known[name].kind in UNDONE]
    if asked.names:
        return names
    return [name for name in names if name not in known or known[name].code != code]


def commit() -> str:
    """The checkout's, with a sign where files differ from it."""
    words = ["git", "describe", "--always", "--dirty=+", "--abbrev=7", "--exclude=*"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def libraries() -> dict[str, str]:
    """Versions of what the models are made of."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def main() -> None:
    """Measure, write after each model, print."""
    asked = arguments()
    # Before any other file is looked for: says where the zoo should be.
    names_in(asked.zoo)
    code, sources, installed = digest_of_code(), commit(), libraries()
    names = to_run(asked, read_outcomes(asked.results), code)
    # A name such as clm:llama: would have a picture in it.
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    counts: Counter[str] = Counter()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("models", total=len(names))

        def done(name: str, row: dict[str, Any]) -> None:
            kind = Kind(row.pop("kind"))
            outcome = Outcome(name, kind, code, sources, installed, **row)
            append_outcome(outcome, asked.results)
            counts[kind] += 1
            bar.console.print(f"{name}: {outcome}", markup=False)
            bar.advance(task)

        workers = [Worker(asked.zoo, asked.limit) for _ in range(min(asked.jobs, len(names)))]
        if workers:
            outcomes_of(names, workers, done)
    if names:
        sort_outcomes(asked.results)
    console.print(", ".join(f"{counts[kind]} {kind}" for kind in Kind if counts[kind]) or "nothing")
    sys.exit(1 if any(counts[kind] for kind in WRONG) else 0)


if __name__ == "__main__":
    main()
