"""Mutations of plans, job files and cluster files: each is read, or refused with an error of ours, and no code of theirs runs.

python -m benchmarks.fuzz [MUTATIONS]
"""

import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from pipecut.compiler import Options, Sizes, compile
from pipecut.compiler.cluster import read_cluster
from pipecut.compiler.job import read_job
from pipecut.errors import PipecutError
from pipecut.runtime.check import check
from pipecut.runtime.plan_folder import GRAPH, MANIFEST, SCHEDULE, file_hash, read_plan, seal, write_seal

HERE = Path(__file__).parents[1]
# What a parser, a type or a size may trip over; the last ones run code where a loader is not a safe one.
TOKENS = [
    *("null", "-1", "0", "1e309", ".nan", "99999999999999999999", "[]", "{}", "''", "true", "*a", "&a", "? ", "- ", ": ", "\t"),
    *(
        "\x00",
        "[" * 2000,
        "9**9**9",
        "batch**batch",
        "../../etc/passwd",
        "\u2028",
        "2024-01-01",
        "0x10",
        "!!binary aGk=",
        "<<: *a",
    ),
    *("#", "'", '!!python/object/apply:os.system ["touch PWNED"]', "!!python/name:os.system"),
]


def mutate(text: str, rng: random.Random) -> str:
    """A few changes of letters, lines and values."""
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        lines = text.splitlines(keepends=True) or [""]
        at, way = rng.randrange(len(lines)), rng.randrange(7)
        if way == 0:
            lines[at] = ""
        elif way == 1:
            lines.insert(at, lines[rng.randrange(len(lines))])
        elif way == 2:
            key, colon, _ = lines[at].partition(": ")
            lines[at] = f"{key}{colon}{rng.choice(TOKENS)}\n"
        elif way == 3:
            place = rng.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:place] + rng.choice(TOKENS) + lines[at][place:]
        elif way == 4:
            place = rng.randrange(len(lines[at]) + 1)
            lines[at] = (
                lines[at][:place] + chr(rng.choice((rng.randrange(32, 127), rng.randrange(1, 0x2000)))) + lines[at][place + 1 :]
            )
        elif way == 5:
            digits = [i for i, letter in enumerate(lines[at]) if letter.isdigit()]
            if digits:
                place = rng.choice(digits)
                lines[at] = lines[at][:place] + str(rng.randrange(10)) + lines[at][place + 1 :]
        else:
            other = rng.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        text = "".join(lines)
    return text


class Plans:
    """Mutations of one plan's files; half of them with hashes and seal that fit, so that what stands in them is read."""

    def __init__(self, folder: Path) -> None:
        self.path, self.scratch = folder / "plan", folder / "mutated"
        compile(HERE / "examples" / "demo.yaml", "auto", self.path, Options(Sizes(stages=2), costs="roofline"))
        # Small enough to be read a thousand times, and true: the graph without what only `pipecut solve` reads.
        graph = json.loads((self.path / GRAPH).read_text())
        (self.path / GRAPH).write_text(json.dumps({k: v for k, v in graph.items() if k != "problem"}, indent=0))
        write_seal(seal(self.path))
        shutil.copytree(self.path, self.scratch)

    def try_one(self, rng: random.Random) -> None:
        """Mutate a file, and read and check the plan."""
        name = rng.choice((MANIFEST, MANIFEST, SCHEDULE, GRAPH, "stages/stage_0.py"))
        text = mutate((self.path / name).read_text(encoding="utf-8"), rng)
        if name.endswith(".py"):
            text = f"open('PWNED', 'w')\n{text}"
        (self.scratch / name).write_text(text, encoding="utf-8", errors="replace")
        try:
            if rng.random() < 0.5:
                self._seal(name)
            check(read_plan(self.scratch))
        finally:
            for kept in {name, MANIFEST}:
                shutil.copyfile(self.path / kept, self.scratch / kept)

    def _seal(self, name: str) -> None:
        """As who edits a plan on purpose would, who needs no pipecut for that."""
        if name == MANIFEST:
            write_seal(seal(self.scratch))
        else:
            manifest = self.scratch / MANIFEST
            old, new = file_hash(self.path / name), file_hash(self.scratch / name)
            manifest.write_text(manifest.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
            write_seal(seal(self.scratch))


def _file(source: Path, scratch: Path, read: Callable[[Path], object]) -> Callable[[random.Random], None]:
    def try_one(rng: random.Random) -> None:
        scratch.write_text(mutate(source.read_text(encoding="utf-8"), rng), encoding="utf-8", errors="replace")
        read(scratch)

    return try_one


def run(mutations: int, seed: int, folder: Path) -> Counter[str]:
    """What became of each; the rest is an exception that is none of ours, which is raised."""
    rng = random.Random(seed)
    job, cluster = folder / "job.yaml", folder / "cluster.yaml"
    tries = {
        "plan": Plans(folder).try_one,
        "job": _file(HERE / "examples" / "demo.yaml", job, read_job),
        "cluster": _file(HERE / "specs" / "clusters" / "dgx-a100.yaml", cluster, lambda path: read_cluster(str(path))),
    }
    found: Counter[str] = Counter()
    for _ in range(mutations):
        kind = rng.choice(list(tries))
        try:
            tries[kind](rng)
            found[f"{kind} read"] += 1
        except PipecutError as error:
            if not str(error).strip():
                raise AssertionError(f"{kind}: an error without a word") from error
            found[f"{kind} refused"] += 1
    return found


def main() -> None:
    """Print the counts; fail on a traceback, or where code ran."""
    mutations = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        sys.path.insert(0, str(HERE))
        found = run(mutations, 0, Path(scratch))
        ran = list(Path(scratch).rglob("PWNED"))
    console = Console(width=120)
    for name, count in sorted(found.items()):
        console.print(f"{name}: {count:,}")
    console.print(f"{sum(found.values()):,} mutations, no traceback, {len(ran)} runs of code")
    sys.exit(bool(ran))


if __name__ == "__main__":
    main()
