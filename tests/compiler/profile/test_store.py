"""Measurements are kept by device kind and torch version."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from pipecut.compiler.profile.store import Store, default_path, key_of
from pipecut.compiler.profile.timing import Timed
from pipecut.errors import UserFileError

TIMED = Timed(1.0, 2.0, 0.01, 7)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "profile.sqlite"
    assert Store(path, "core").read() == {}
    Store(path, "core").write("key", "mm in layers.0", TIMED, 1.0)
    Store(path, "core").write("key", "mm in layers.0", Timed(3.0, 4.0, 0.0, 5), 2.0)
    assert Store(path, "core").read() == {"key": Timed(3.0, 4.0, 0.0, 5)}
    assert Store(path, "core").measurements()["key"].pace == 2.0


def test_other_kinds_and_versions_have_measurements_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "profile.sqlite"
    Store(path, "core").write("key", "mm", TIMED, 1.0)
    assert Store(path, "gpu").read() == {}
    older = Store(path, "core")
    older.torch = "1.0"
    assert older.read() == {}


@pytest.mark.parametrize(
    "row",
    [
        ("key", "slow", 2.0, 0.0, 1),
        ("key", -1.0, 2.0, 0.0, 1),
        ("key", float("inf"), 2.0, 0.0, 1),
        ("key", None, 2.0, 0.0, 1),
        (5, 1.0, 2.0, 0.0, 1),
    ],
)
def test_a_row_that_is_no_measurement_is_refused(row: tuple[Any, ...], tmp_path: Path) -> None:
    path = tmp_path / "profile.sqlite"
    store = Store(path, "core")
    store.write("other", "mm", TIMED, 1.0)
    key, forward, backward, spread, runs = row
    with sqlite3.connect(path) as connection:
        # The column's type turns 5 into text, but leaves a blob as it is.
        key = sqlite3.Binary(b"\x05") if key == 5 else key
        values = ("core", store.torch, key, "mm", forward, backward, spread, runs, 1.0)
        connection.execute(
            "insert into measured_at_pace values (?, ?, ?, ?, ?, ?, ?, ?, ?)", values
        )
    connection.close()
    with pytest.raises(UserFileError, match="cannot be used as a profile: its row .* no seconds"):
        store.read()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "profile.sqlite"
    path.write_text("not a database, but long enough to be looked at as one")
    with pytest.raises(UserFileError, match="cannot be used as a profile"):
        Store(path, "core").read()


def test_the_default_file_is_in_the_users_cache(monkeypatch: Any) -> None:
    monkeypatch.delenv("PIPECUT_PROFILE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_path() == Path("/cache/pipecut/profile.sqlite")
    monkeypatch.setenv("PIPECUT_PROFILE", "/mine.sqlite")
    assert default_path() == Path("/mine.sqlite")


def test_keys_tell_what_was_measured_apart() -> None:
    assert key_of(("operator", 2, "mm")) == key_of(("operator", 2, "mm"))
    assert key_of(("operator", 2, "mm")) != key_of(("operator", 4, "mm"))
    assert len(key_of("anything")) == 32
