"""The public face: what is imported when it is asked for."""

import subprocess
import sys

import pytest

import pipecut


@pytest.mark.parametrize("name", sorted(pipecut.HOMES))
def test_every_public_name_is_there(name: str) -> None:
    assert name in pipecut.__all__ and getattr(pipecut, name) is not None


def test_another_name_is_not() -> None:
    with pytest.raises(AttributeError, match="module 'pipecut' has no attribute 'nothing'"):
        _ = pipecut.nothing


def test_importing_pipecut_imports_neither_torch_nor_the_solver() -> None:
    code = "import sys, pipecut; print({'torch', 'pulp', 'pipecut.compiler'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
