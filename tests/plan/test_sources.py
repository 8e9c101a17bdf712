"""The user's own files are found by their imports, and an edit of one is told."""

from pathlib import Path

import pytest

from pipecut.plan.sources import changed_sources, source_hashes
from tests.plans import made_plan


def write(folder: Path, **files: str) -> Path:
    """Files by module name; `__` stands for a folder."""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def found(folder: Path, function: str = "model:build") -> list[str]:
    return list(source_hashes([function, None], [folder]))


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("", ["model.py"]),
        ("import layers", ["layers.py", "model.py"]),
        ("from layers import Block", ["layers.py", "model.py"]),
        ("def build():\n    import layers", ["layers.py", "model.py"]),
        ("import parts.norm", ["model.py", "parts/__init__.py", "parts/norm.py"]),
        ("from parts import norm", ["model.py", "parts/__init__.py", "parts/norm.py"]),
        ("import os, pipecut, torch", ["model.py"]),
        ("def broken(:", ["model.py"]),
    ],
)
def test_imports_are_followed_to_the_users_own_files(
    text: str, files: list[str], tmp_path: Path
) -> None:
    write(tmp_path, model=text, layers="", os="", pipecut="")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "__init__.py").write_text("")
    (tmp_path / "parts" / "norm.py").write_text("")
    assert found(tmp_path) == files


def test_imports_from_parents_are_followed_and_circles_end(tmp_path: Path) -> None:
    write(
        tmp_path,
        net__a="from .deep.b import c",
        net__deep__b="from ..a import d\nfrom ...outside import e",
    )
    (tmp_path / "net" / "__init__.py").write_text("from . import a")
    assert found(tmp_path, "net.a:build") == ["net/__init__.py", "net/a.py", "net/deep/b.py"]


def test_installed_packages_within_the_folder_are_not_the_users(tmp_path: Path) -> None:
    folder = write(tmp_path / "site-packages", model="")
    assert found(folder) == []


def test_the_first_folder_that_has_a_module_counts(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", model="1"), write(tmp_path / "b", model="2")
    both = source_hashes(["model:build"], [first, second])
    assert both == source_hashes(["model:build"], [first])
    assert both != source_hashes(["model:build"], [second])


def test_an_edited_file_is_told_and_a_missing_one_is_not(tmp_path: Path) -> None:
    write(tmp_path, model="import layers", layers="")
    hashes = source_hashes(["model:build"], [tmp_path])
    folders = {"folders": [str(tmp_path)], "sources": hashes}
    model = made_plan(1).model.model_copy(update=folders)
    assert changed_sources(model) == []
    (tmp_path / "layers.py").write_text("edited")
    (tmp_path / "model.py").unlink()
    assert changed_sources(model) == ["layers.py"]
