"""Compare plan folders: do two versions of pipecut make the same plans?

python -m benchmarks.compiles.same BEFORE AFTER [OLD=NEW ...]

BEFORE and AFTER are plan folders, or folders of plan folders with the same names. `OLD=NEW` says
that a key, or a text, was renamed (`false` and `true` are the values). Of `module:function` the
function is compared, since modules move. Left out: versions, hashes, seals, sources, and seconds
of the solver's clock.
Seconds and bytes are compared as numbers; stage code and schedules as text.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

# What differs from one compile to the next, and what another version of the format changes.
LEFT_OUT = {"version", "pipecut", "seal", "hashes", "source", "sources", "folders"}
CLOCK = ("certificate", "seconds")


def differences(before: Path, after: Path, renamed: dict[str, str]) -> Iterator[str]:
    """A line per difference of two plan folders."""
    old, new = (_manifest(folder, renamed) for folder in (before, after))
    yield from _values(old, new, "plan.yaml")
    for name in (
        "schedule.yaml",
        "parameters.json",
        *(str(p.relative_to(before)) for p in before.glob("stages/*.py")),
    ):
        if (before / name).read_text() != (after / name).read_text():
            yield f"{name}: the text differs"
    graphs = (json.loads((f / "graph.json").read_text())["operators"] for f in (before, after))
    yield from _values(*graphs, "graph.json: operators")


def _manifest(folder: Path, renamed: dict[str, str]) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((folder / "plan.yaml").read_text())
    data["certificate"].pop("seconds", None)
    named: dict[str, Any] = _renamed(data, renamed)
    return named


def _renamed(value: Any, renamed: dict[str, str]) -> Any:
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if key not in LEFT_OUT}
        return {renamed.get(key, key): _renamed(item, renamed) for key, item in kept.items()}
    if isinstance(value, list):
        return [_renamed(item, renamed) for item in value]
    if isinstance(value, str):
        word = renamed.get(value, value).rpartition(":")[2]
        return {"false": False, "true": True}.get(word, word)
    return value


def _values(before: Any, after: Any, where: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys((*before, *after)):
            yield from _values(before.get(key), after.get(key), f"{where}: {key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, pair in enumerate(zip(before, after, strict=True)):
            yield from _values(*pair, f"{where}[{number}]")
    elif before != after:
        yield f"{where}: {before!r} before, {after!r} after"


def main() -> None:
    """Print each difference; exit with 1 where there are some."""
    folders = [Path(a) for a in sys.argv[1:] if "=" not in a]
    renamed = dict(a.split("=") for a in sys.argv[1:] if "=" in a)
    before, after = folders
    names = [p.parent.relative_to(before) for p in sorted(before.rglob("plan.yaml"))]
    failed = False
    for name in names:
        lines = list(differences(before / name, after / name, renamed))
        print(f"{name}: {f'{len(lines)} differences' if lines else 'the same plan'}")
        for line in lines[:20]:
            print(f"  {line[:300]}")
        failed |= bool(lines)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
