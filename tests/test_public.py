"""The public face: what is imported when it is asked for."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import pipecut
from pipecut import compiler
from tests.plans import write_made_plan

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


# What takes a second to import, or only a solver, a training or a picture needs.
HEAVY = {"torch", "numpy", "networkx", "sympy", "pulp", "highspy", "safetensors", "matplotlib"}
STARTS = [["--help"], ["--version"], ["run", "--help"], ["specs"], ["show"], ["show", "--json"]]
REFUSED = [["compile", "nowhere.yaml"], ["profile", "nowhere.yaml"]]


def test_help_specs_and_show_import_nothing_heavy(tmp_path: Path) -> None:
    plan = write_made_plan(tmp_path)
    commands = [[*start, *([str(plan)] if start[0] == "show" else [])] for start in STARTS]
    code = (
        "import sys\n"
        "from pipecut.cli import app\n"
        "from pipecut.errors import UserFileError\n"
        f"for command in {commands!r}:\n"
        "    app(command, standalone_mode=False)\n"
        f"    print('imported', {HEAVY!r} & set(sys.modules))\n"
        f"for command in {REFUSED!r}:\n"
        "    try:\n"
        "        app(command, standalone_mode=False)\n"
        "    except UserFileError:\n"
        f"        print('imported', {HEAVY!r} & set(sys.modules))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = [line for line in run.stdout.splitlines() if line.startswith("imported")]
    assert lines == ["imported set()"] * (len(STARTS) + len(REFUSED))


def test_plans_are_read_checked_and_drawn_without_torch() -> None:
    code = (
        "import importlib, pkgutil, sys, pipecut.plan, pipecut.view\n"
        "for package in (pipecut.plan, pipecut.view):\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "for name in ('chrome_trace', 'picture'):\n"
        "    importlib.import_module(f'pipecut.runtime.observe.{name}')\n"
        f"print(len(sys.modules) > 300, {HEAVY!r} & set(sys.modules))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "True set()"


@pytest.mark.parametrize("name", compiler.__all__)
def test_every_public_name_of_the_compiler_is_there(name: str) -> None:
    assert set(compiler.HOMES) == set(compiler.__all__)
    assert getattr(compiler, name) is not None
