"""The public face: what is imported when it is asked for."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import pipecut

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", sorted(pipecut.HOMES))
def test_every_public_name_is_there(name: str) -> None:
    assert name in pipecut.__all__ and getattr(pipecut, name) is not None


def test_dir_shows_the_public_names() -> None:
    assert {*pipecut.__all__} <= {*dir(pipecut)}


def test_one_version_is_written() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert pipecut.__version__ == project["version"]


def test_another_name_is_not() -> None:
    with pytest.raises(AttributeError, match="module 'pipecut' has no attribute 'nothing'"):
        _ = pipecut.nothing


def test_importing_pipecut_imports_neither_torch_nor_the_solver() -> None:
    code = "import sys, pipecut; print({'torch', 'pulp', 'pipecut.compiler'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
