"""A YAML file is read whole, or refused with the line and column of its first mistake."""

from pathlib import Path

import pytest

from pipecut.compiler.inputs.document.positions import (
    KEY,
    location_of,
    nearest,
    position_of,
)
from pipecut.compiler.inputs.document.read import MOST_BYTES, read_document, read_text
from pipecut.compiler.inputs.document.schema import Bytes, FileSchema
from pipecut.errors import UserFileError


class Engine(FileSchema):
    power: int
    tank: Bytes = 0


class Car(FileSchema):
    name: str
    engines: list[Engine] = []


def car(folder: Path, text: str) -> Path:
    path = folder / "car.yaml"
    path.write_text(text)
    return path


def test_a_file_becomes_typed_values(tmp_path: Path) -> None:
    path = car(tmp_path, "name: one\nengines: [{power: 3, tank: 2KiB}, {power: 4}]\n")
    read = read_document(path, Car)
    assert [(engine.power, engine.tank) for engine in read.engines] == [(3, 2048), (4, 0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"car.yaml:1:1: expected keys such as name, engines, found an empty file"),
        ("- 1\n", r"car.yaml:1:1: expected keys such as .*, found a list"),
        ("name: [\n", r"car.yaml:\d:\d: not valid YAML"),
        ("name: a\n\tengines: []\n", r"not valid YAML: .*; indent with spaces, not tabs"),
        ("name: a\nname: b\n", r"car.yaml:2:1: key 'name' is given twice; keep one"),
        ("nmae: a\n", r"car.yaml:1:1: unknown key 'nmae'; did you mean 'name'\?"),
        ("name: a\nwheels: 4\n", r"car.yaml:2:1: unknown key 'wheels'; known keys: name, engines"),
        ("engines: []\n", r"car.yaml:1:1: key 'name' is missing; add it"),
        (
            "name: a\nengines:\n  - {power: 3}\n  - {power: much}\n",
            r"car.yaml:4:13: engines.1.power: .* \(found 'much'\)",
        ),
        (
            "name: a\nengines:\n  - {power: 3, tnk: 1B}\n",
            r"car.yaml:3:16: unknown key 'engines.0.tnk'; did you mean 'tank'\?",
        ),
        (
            "name: a\nengines: [{power: 1, tank: 5}]\n",
            r"car.yaml:2:28: engines.0.tank: 5 has no unit",
        ),
        ("name: &a\n  - *a\n", r"car.yaml:1:7: an alias stands for what it is part of"),
    ],
)
def test_a_mistake_is_reported_where_it_is(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserFileError, match=message):
        read_document(car(tmp_path, text), Car)


def test_aliases_of_aliases_are_refused_before_they_fill_the_memory(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    with pytest.raises(UserFileError, match="stand for more than 100,000 values"):
        read_document(car(tmp_path, "\n".join(lines)), Car)


def test_what_cannot_be_read_as_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserFileError, match=f"nowhere.yaml: there is no such file in {tmp_path}"):
        read_text(tmp_path / "nowhere.yaml")
    with pytest.raises(UserFileError, match="no such file, nor a folder .*nowhere"):
        read_text(tmp_path / "nowhere" / "job.yaml")
    with pytest.raises(UserFileError, match="is a folder; give a file$"):
        read_text(tmp_path)
    (tmp_path / "job.yaml").touch()
    with pytest.raises(UserFileError, match=r"jobs.yaml: there .*; did you mean .*job.yaml\?"):
        read_text(tmp_path / "jobs.yaml")
    with pytest.raises(UserFileError, match="is a folder; give a file, such as .*job.yaml"):
        read_text(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserFileError, match="binary: cannot be read as UTF-8 text"):
        read_text(tmp_path / "binary")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(UserFileError, match="larger than 16 MiB"):
        read_text(tmp_path / "large")


def test_a_value_and_its_key_have_positions(tmp_path: Path) -> None:
    path = car(tmp_path, "name: a\nengines:\n  - {power: 3}\n")
    assert position_of(path, "engines", 0, "power") == (3, 13)
    assert position_of(path, "engines", 0, "power", KEY) == (3, 6)
    assert location_of(path, "name") == f"{path}:1:7"
    assert location_of(path, "engines", KEY) == f"{path}:2:1"


def test_what_is_not_there_has_the_position_of_what_is_around_it(tmp_path: Path) -> None:
    path = car(tmp_path, "name: a\nengines:\n  - {power: 3}\n")
    assert position_of(path, "engines", 0, "tank") == (3, 5)
    assert position_of(path, "wheels") == (1, 1)
    assert position_of(tmp_path / "gone.yaml", "wheels") == (1, 1)
    assert nearest({("a",): (2, 3)}, ("a", 4, "b")) == (2, 3)
