"""Mutations of every kind of file that pipecut reads.

python -m benchmarks.fuzz.files [MUTATIONS PER KIND [KIND ...]]

Each mutated file is read, or refused with an error of pipecut's, and none of its code runs. Half
are mutations of letters and lines, half of values inside a file that stays valid. None takes over
5 seconds, all of them stay under 1 GiB.
"""

import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from benchmarks.fuzz.values import VALUES, mutate_values
from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.compiler.inputs.cluster_file import read_cluster
from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.profile.measured_costs import measured_costs
from pipecut.compiler.profile.store import Store
from pipecut.compiler.trace.trace import trace
from pipecut.errors import PipecutError
from pipecut.plan.check.check import check
from pipecut.plan.folder import (
    GRAPH,
    MANIFEST,
    PARAMETERS,
    SCHEDULE,
    file_hash,
    read_plan,
    seal,
    seal_of,
    write_seal,
)
from pipecut.plan.replay.simulate import predicted
from pipecut.runtime.checkpoint.export import export
from pipecut.runtime.observe.chrome_trace import trace_events
from pipecut.tables.plan import print_plan

HERE = Path(__file__).parents[2]
CLUSTER = HERE / "specs" / "clusters" / "dgx-a100.yaml"
# Of one mutation, and bytes of all of them above what the process had before.
MOST_SECONDS, MOST_BYTES = 5, 2**30
QUIET = Console(quiet=True, markup=False, width=140)
Try = Callable[[random.Random], None]
# What a parser, a type or a size may trip over; the last run code in a loader that is not safe.
TOKENS = [
    *(
        "null",
        "-1",
        "0",
        "1e309",
        ".nan",
        "99999999999999999999",
        "[]",
        "{}",
        "''",
        "true",
        "*a",
        "&a",
        "? ",
        "- ",
        ": ",
        "\t",
    ),
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
                lines[at][:place]
                + chr(rng.choice((rng.randrange(32, 127), rng.randrange(1, 0x2000))))
                + lines[at][place + 1 :]
            )
        elif way == 5:
            digits = [i for i, letter in enumerate(lines[at]) if letter.isdigit()]
            if digits:
                place = rng.choice(digits)
                lines[at] = lines[at][:place] + str(rng.randrange(10)) + lines[at][place + 1 :]
        else:
            second = rng.randrange(len(lines))
            lines[at], lines[second] = lines[second], lines[at]
        text = "".join(lines)
    return text


class Plans:
    """Mutations of the files of a plan; most with right hashes and seal, so that they are read."""

    def __init__(self, folder: Path) -> None:
        self.path, self.scratch = folder / "plan", folder / "mutated"
        compile(
            HERE / "examples" / "demo.yaml",
            "auto",
            self.path,
            Options(SizeOverrides(stages=2), costs="roofline"),
        )
        # Small enough to be read a thousand times: without what only `pipecut solve` reads.
        graph = json.loads((self.path / GRAPH).read_text())
        (self.path / GRAPH).write_text(
            json.dumps({k: v for k, v in graph.items() if k != "problem"}, indent=0)
        )
        write_seal(seal(self.path))
        shutil.copytree(self.path, self.scratch)

    def of(self, *names: str) -> Try:
        """Mutate one of these files, then read, show, check and draw the plan."""

        def attempt(rng: random.Random) -> None:
            name = rng.choice(names)
            try:
                self._write(name, rng)
                folder = read_plan(self.scratch)
                print_plan(folder.plan, QUIET)
                check(folder)
                trace_events(folder, predicted(folder), {})
            finally:
                for kept in {name, MANIFEST}:
                    shutil.copyfile(self.path / kept, self.scratch / kept)

        return attempt

    def _write(self, name: str, rng: random.Random) -> None:
        text = (self.path / name).read_text(encoding="utf-8")
        if name.endswith(".py"):
            text = f"open('PWNED', 'w')\n{mutate(text, rng)}"
        else:
            text = mutate(text, rng) if rng.random() < 0.5 else _with_values(text, name, rng)
        (self.scratch / name).write_text(text, encoding="utf-8", errors="replace")
        if rng.random() < 0.8:
            self._seal(name)

    def _seal(self, name: str) -> None:
        """As who edits a plan on purpose would, who needs no pipecut for that."""
        manifest = self.scratch / MANIFEST
        text = manifest.read_text(encoding="utf-8")
        if name != MANIFEST:
            text = text.replace(file_hash(self.path / name), file_hash(self.scratch / name))
        try:
            data = yaml.load(text, Loader=yaml.CSafeLoader)
            data["seal"] = seal_of(data)
        except (yaml.YAMLError, TypeError, ValueError, RecursionError):
            return
        manifest.write_text(yaml.dump(data, sort_keys=False), encoding="utf-8", errors="replace")


def _with_values(text: str, name: str, rng: random.Random) -> str:
    """A file with other values, which is still YAML or JSON."""
    data = json.loads(text) if name.endswith(".json") else yaml.load(text, Loader=yaml.CSafeLoader)
    mutate_values(data, rng)
    return json.dumps(data) if name.endswith(".json") else yaml.dump(data, sort_keys=False)


def of_file(source: Path, scratch: Path, read: Callable[[Path], object]) -> Try:
    """Mutate a file of the user's and read it."""

    def attempt(rng: random.Random) -> None:
        text = source.read_text(encoding="utf-8")
        text = mutate(text, rng) if rng.random() < 0.5 else _with_values(text, source.name, rng)
        scratch.write_text(text, encoding="utf-8", errors="replace")
        read(scratch)

    return attempt


def of_checkpoint(plan: Path, folder: Path) -> Try:
    """Export a checkpoint that was mutated: half of them with a new seal, or a bit flipped."""
    command = [sys.executable, "-m", "pipecut", "run", str(plan), "--trust"]
    command += ["--steps", "2", "--checkpoint-every", "2"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
    }
    subprocess.run(
        [*command, "--checkpoints", str(folder / "kept")],
        check=True,
        capture_output=True,
        env=environment,
    )
    kept = next((folder / "kept").glob("step_*"))
    scratch, unchanged = folder / "tried" / kept.name, read_plan(plan).plan
    shutil.copytree(kept, scratch)

    def attempt(rng: random.Random) -> None:
        name = rng.choice([path.name for path in kept.iterdir()])
        data = bytearray((kept / name).read_bytes())
        if name.endswith(".json") and rng.random() < 0.7:
            values = json.loads(data)
            mutate_values(values, rng)
            if rng.random() < 0.5 and isinstance(values, dict):
                values["seal"] = seal_of(values)
            data = bytearray(json.dumps(values).encode())
        else:
            # The header of a safetensors file is where names, types and offsets are.
            data[rng.randrange(min(len(data), 4096))] ^= 1 << rng.randrange(8)
        try:
            (scratch / name).write_bytes(data)
            export(unchanged, scratch, folder / "exported.safetensors")
        finally:
            shutil.copyfile(kept / name, scratch / name)

    return attempt


def of_profile(folder: Path) -> Try:
    """Mutate a cell or a byte of a profile's database and read it."""
    from pipecut.compiler.profile.timing import Timed

    kept, scratch = folder / "kept.sqlite", folder / "tried.sqlite"
    for index in range(20):
        Store(kept, "cpu-core").write(f"key {index}", "aten.mm", Timed(1e-3, 2e-3, 0.1, 5), 1e-3)

    def attempt(rng: random.Random) -> None:
        shutil.copyfile(kept, scratch)
        if rng.random() < 0.5:
            with sqlite3.connect(scratch) as connection:
                column = rng.choice(
                    ("kind", "torch", "key", "what", "forward", "backward", "spread", "pace")
                )
                value = rng.choice(
                    [
                        v
                        for v in VALUES
                        if isinstance(v, str | float) or (isinstance(v, int) and abs(v) < 2**63)
                    ]
                )
                connection.execute(
                    f"update or ignore measured_at_pace set {column} = ? where key = 'key 3'",
                    (value,),
                )
            connection.close()
        else:
            data = bytearray(scratch.read_bytes())
            for _ in range(rng.choice((1, 4, 64))):
                data[rng.randrange(len(data))] = rng.randrange(256)
            scratch.write_bytes(data)
        Store(scratch, "cpu-core").read()

    return attempt


def of_report(folder: Path) -> Try:
    """Mutate a run's report and look every operator's seconds up in it."""
    job = read_job(HERE / "examples" / "demo.yaml")
    graph = trace(job)
    rows = {operator.name: [1e-3, 2e-3] for operator in graph.operators}
    kept = folder / "report.json"
    kept.write_text(json.dumps({"microbatch": job.microbatch, "operators": {"cpu-core": rows}}))

    def read(path: Path) -> None:
        measured_costs(f"measured:{path}", None).seconds(graph, job.microbatch, ["cpu-core"])

    return of_file(kept, folder / "tried.json", read)


def attempts(folder: Path, kinds: tuple[str, ...]) -> dict[str, Try]:
    """What is tried, by the kind of file."""
    plans = Plans(folder)
    job, cluster = folder / "job.yaml", folder / "cluster.yaml"
    makers: dict[str, Callable[[], Try]] = {
        "plan": lambda: plans.of(MANIFEST),
        "schedule": lambda: plans.of(SCHEDULE),
        "graph": lambda: plans.of(GRAPH),
        "parameters": lambda: plans.of(PARAMETERS),
        "stage": lambda: plans.of("stages/stage_0.py"),
        "checkpoint": lambda: of_checkpoint(plans.path, folder),
        "cluster": lambda: of_file(CLUSTER, cluster, lambda path: read_cluster(str(path))),
        "job": lambda: of_file(HERE / "examples" / "demo.yaml", job, read_job),
        "profile": lambda: of_profile(folder),
        "report": lambda: of_report(folder),
    }
    return {kind: makers[kind]() for kind in kinds or makers}


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raises AssertionError in what takes longer, by the time of only this process."""

    def stop(*_: Any) -> None:
        raise AssertionError(f"took over {seconds} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def run(mutations: int, seed: int, folder: Path, kinds: tuple[str, ...] = ()) -> Counter[str]:
    """Counts of `KIND read` and `KIND refused`. Raises AssertionError for any other outcome."""
    outcomes: Counter[str] = Counter()
    tries = attempts(folder, kinds)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for kind in tries:
        for number in range(mutations):
            # A seed for each, so that a mutation that fails can be tried by itself.
            rng = random.Random(f"{kind} {seed} {number}")
            try:
                with limited(MOST_SECONDS):
                    tries[kind](rng)
                outcomes[f"{kind} read"] += 1
            except PipecutError as error:
                if not str(error).strip():
                    raise AssertionError(f"{kind}: an error without a word") from error
                outcomes[f"{kind} refused"] += 1
            except Exception as error:
                raise AssertionError(
                    f"{kind}, mutation {number} of seed {seed}: {type(error).__name__}: {error}"
                ) from error
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    if grown > MOST_BYTES:
        raise AssertionError(f"the mutations took {grown / 2**20:.0f} MiB")
    return outcomes


def main() -> None:
    """Print the counts; fail on a traceback, or where code ran."""
    mutations, kinds = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000, tuple(sys.argv[2:])
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        sys.path.insert(0, str(HERE))
        outcomes = run(mutations, 0, Path(scratch), kinds)
        ran = list(Path(scratch).rglob("PWNED"))
    console = Console(width=120)
    for name, count in sorted(outcomes.items()):
        console.print(f"{name}: {count:,}")
    console.print(f"{sum(outcomes.values()):,} mutations, no traceback, {len(ran)} runs of code")
    sys.exit(bool(ran))


if __name__ == "__main__":
    main()
