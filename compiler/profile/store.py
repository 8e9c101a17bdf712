"""Measured seconds in an SQLite file, by device kind, torch version and what was measured.

With each, the pace of the machine at that time (`pace.py`).
"""

import hashlib
import math
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipecut.compiler.profile.timing import Timed
from pipecut.errors import UserFileError

TABLE = """create table if not exists measured_at_pace (
    kind text, torch text, key text, what text,
    forward real, backward real, spread real, runs integer, pace real,
    primary key (kind, torch, key))"""
SELECT = """select key, forward, backward, spread, runs, pace from measured_at_pace
    where kind = ? and torch = ?"""
INSERT = "insert or replace into measured_at_pace values (?, ?, ?, ?, ?, ?, ?, ?, ?)"


def default_path() -> Path:
    """$PIPECUT_PROFILE, or profile.sqlite in the user's cache folder."""
    path = os.environ.get("PIPECUT_PROFILE")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(path) if path else cache / "pipecut" / "profile.sqlite"


def key_of(what: Any) -> str:
    """A short name of what was measured."""
    return hashlib.sha256(repr(what).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Measurement:
    """What was timed, and the pace of the machine then."""

    timed: Timed
    pace: float


def _measurement(key: object, *numbers: object) -> Measurement:
    """A row as read. Raises ValueError where it is no measurement.

    SQLite keeps any type in any column.
    """
    plain = [n for n in numbers if isinstance(n, int | float) and math.isfinite(n) and n >= 0]
    if not isinstance(key, str) or len(plain) != len(numbers):
        raise ValueError(f"its row {key!r} has no seconds")
    forward, backward, spread, runs, pace = plain
    return Measurement(Timed(forward, backward, spread, int(runs)), pace)


class Store:
    """The measurements of one device kind with this torch."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path, self.kind, self.torch = path, kind, str(torch.__version__)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path)
            try:
                with connection:
                    connection.execute(TABLE)
                    yield connection
            finally:
                connection.close()
        except (sqlite3.Error, OSError, ValueError) as error:
            raise UserFileError(
                f"{self.path}: cannot be used as a profile: {error}; remove it, or give another"
            ) from None

    def read(self) -> dict[str, Timed]:
        """Everything measured, by key. Empty where there is no file."""
        return {key: measured.timed for key, measured in self.measurements().items()}

    def measurements(self) -> dict[str, Measurement]:
        """As `read`, with the machine's pace at each."""
        if not self.path.exists():
            return {}
        with self._open() as connection:
            rows = connection.execute(SELECT, (self.kind, self.torch))
            return {key: _measurement(key, *rest) for key, *rest in rows}

    def write(self, key: str, what: str, timed: Timed, pace: float) -> None:
        """Keep one measurement at once, so that an interrupted run loses nothing."""
        with self._open() as connection:
            times = timed.forward, timed.backward, timed.spread, timed.runs, pace
            connection.execute(INSERT, (self.kind, self.torch, key, what, *times))
