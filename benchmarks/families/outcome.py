"""What happened to a model, and the file in which that is kept, a line per model."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from benchmarks.figures import ROOT

RESULTS = ROOT / "docs" / "families.jsonl"
# Whose code decides what becomes of a model.
CODE = ("pipecut", "compiler", "runtime")
# Where a package or a checkout is installed says nothing to a reader.
PLACES = (
    re.compile(r"/\S*/site-packages/"),
    re.compile(r"(?<![\w.])(/[\w.+-]+)+/(?=[\w-]+\.py\b)"),
)


class Kind(StrEnum):
    """How it ended, the best first."""

    EXACT = "exact"
    REFUSED = "refused"
    NOT_BUILT = "not built by the harness"
    INEXACT = "inexact"
    FAILED = "failed"
    TIMEOUT = "timeout"


# A model that ended so may end otherwise with other code of pipecut.
UNDONE = (Kind.REFUSED, Kind.INEXACT, Kind.FAILED, Kind.TIMEOUT)


@dataclass(frozen=True)
class Outcome:
    """One model's: `code` is a digest of pipecut's, `seconds` are CPU seconds of the compile.

    `difference` is the largest relative one of all tensors, 0 where all are bitwise equal;
    `reason` the message of an error, or which tensor differs, or does by rounding.
    """

    name: str
    kind: Kind
    code: str
    commit: str
    libraries: dict[str, str]
    seconds: float | None = None
    difference: float | None = None
    reason: str = ""

    def __str__(self) -> str:
        if self.kind is Kind.EXACT:
            exactly = "bitwise" if self.difference == 0 else f"within {self.difference:.1e}"
            return f"{exactly}, {self.reason}" if self.reason else exactly
        return f"{self.kind}: {self.reason}" if self.reason else str(self.kind)


def read_outcomes(path: Path = RESULTS) -> dict[str, Outcome]:
    """By name; of two lines with one name the later holds."""
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line]
    return {row["name"]: Outcome(**{**row, "kind": Kind(row["kind"])}) for row in rows}


def append_outcome(outcome: Outcome, path: Path = RESULTS) -> None:
    """Add a line, which holds even if the benchmark is stopped afterwards."""
    with path.open("a", encoding="utf-8") as file:
        file.write(_line(outcome))


def sort_outcomes(path: Path = RESULTS) -> None:
    """Leave one line for each name, in the order of the names."""
    outcomes = read_outcomes(path)
    path.write_text("".join(_line(outcomes[name]) for name in sorted(outcomes)), encoding="utf-8")


def _line(outcome: Outcome) -> str:
    return json.dumps(asdict(outcome), sort_keys=True) + "\n"


def digest_of_code(root: Path = ROOT, folders: Iterable[str] = CODE) -> str:
    """Of every file of Python that pipecut runs, wherever it is checked out."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def shortened(reason: str) -> str:
    """A message without the folders of this machine."""
    for place in PLACES:
        reason = place.sub("", reason)
    return reason.strip()
