"""A plan takes the place of an older plan, and of nothing else."""

import os
from pathlib import Path

import pytest

from pipecut.compiler.emit.publish import files_of_plan, put_in_place, refuse_occupied
from pipecut.errors import UserFileError
from pipecut.plan.folder import MANIFEST, PARAMETERS, write_plan
from tests.plans import made_plan


def fill(folder: Path, **files: str) -> Path:
    """A folder with these files; `__` in a name stands for a folder's slash."""
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def texts(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def old_plan(folder: Path) -> Path:
    """A plan of two files and a manifest."""
    fill(folder, graph="old", stages__stage_1="old")
    write_plan(folder, made_plan(1, hashes={"graph": "", "stages/stage_1": "", "../escaped": ""}))
    return folder


def test_files_of_a_plan_are_those_its_manifest_lists_within_it(tmp_path: Path) -> None:
    assert files_of_plan(tmp_path / "missing") == files_of_plan(tmp_path) == frozenset()
    assert files_of_plan(old_plan(tmp_path)) == {MANIFEST, PARAMETERS, "graph", "stages/stage_1"}


@pytest.mark.parametrize("files", [{"thesis": "mine"}, {MANIFEST: "mine: [1]\n"}, {MANIFEST: "{"}])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserFileError, match="is no plan folder; give another -o, or remove it"):
        refuse_occupied(tmp_path)


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan").write_text("mine")
    with pytest.raises(UserFileError, match="is no plan folder"):
        refuse_occupied(tmp_path / "plan")


def test_a_plan_goes_where_nothing_is(tmp_path: Path) -> None:
    scratch = fill(tmp_path / "scratch", graph="new")
    put_in_place(scratch, tmp_path / "plan", frozenset())
    assert texts(tmp_path / "plan") == {"graph": "new"} and not scratch.exists()


def test_an_old_plan_alone_is_replaced_whole(tmp_path: Path) -> None:
    target = old_plan(tmp_path / "plan")
    cache = target / "stages" / "__pycache__"
    cache.mkdir()
    (cache / "stage_1.pyc").write_text("of the old stage")
    put_in_place(fill(tmp_path / "scratch", graph="new"), target, files_of_plan(target))
    assert texts(target) == {"graph": "new"}


def test_what_the_user_keeps_in_the_folder_stays(tmp_path: Path) -> None:
    target = fill(old_plan(tmp_path / "plan"), checkpoints__step_1="weeks of work", notes="mine")
    old_files = files_of_plan(target)
    put_in_place(fill(tmp_path / "scratch", graph="new", stages__stage_0="new"), target, old_files)
    assert texts(target) == {
        "graph": "new",
        "stages/stage_0": "new",
        "checkpoints/step_1": "weeks of work",
        "notes": "mine",
    }


def test_the_manifest_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    replace = os.replace

    def recording(source: Path, target: Path) -> None:
        moved.append(target.name)
        replace(source, target)

    target = fill(old_plan(tmp_path / "plan"), notes="mine")
    scratch = fill(tmp_path / "scratch", graph="new", zebra="new")
    write_plan(scratch, made_plan(1))
    monkeypatch.setattr(os, "replace", recording)
    put_in_place(scratch, target, files_of_plan(target))
    assert moved == ["graph", PARAMETERS, "zebra", MANIFEST]


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserFileError, match=r"file/x/plan: .*/file is a file, no folder; give"):
        refuse_occupied(tmp_path / "file" / "x" / "plan")
