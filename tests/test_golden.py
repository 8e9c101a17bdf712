"""Golden texts and the three models they are made of."""

from pathlib import Path

import pytest
import torch

from pipecut.compiler import Options, compile
from tests import golden
from tests.models.golden import NAMES, golden_job


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of golden texts, compared and not rewritten."""
    monkeypatch.setattr(golden, "FOLDER", tmp_path)
    monkeypatch.delenv("PIPECUT_GOLDEN", raising=False)
    return tmp_path


def test_a_missing_golden_names_the_command(folder: Path) -> None:
    with pytest.raises(AssertionError, match="no golden file") as raised:
        golden.check_golden("trace/tied", "new text")
    assert "+new text" in str(raised.value) and "make golden" in str(raised.value)


def test_a_stale_golden_shows_a_diff(folder: Path) -> None:
    (folder / "cut.txt").write_text("stage 0\nstage 1\n")
    with pytest.raises(AssertionError, match="tests/golden/cut.txt") as raised:
        golden.check_golden("cut", "stage 0\nstage 2")
    assert "-stage 1" in str(raised.value) and "+stage 2" in str(raised.value)


def test_rewriting_makes_the_next_run_pass(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPECUT_GOLDEN", "write")
    golden.check_golden("trace/tied", "column   \nvalue\n")
    monkeypatch.delenv("PIPECUT_GOLDEN")
    golden.check_golden("trace/tied", "column\nvalue")
    assert (folder / "trace" / "tied.txt").read_text() == "column\nvalue\n"


def test_paths_are_those_within_the_checkout(folder: Path) -> None:
    (folder / "stage.txt").write_text("# tests/models/golden.py:3\n")
    golden.check_golden("stage", f"# {golden.CHECKOUT}/tests/models/golden.py:3")


@pytest.mark.parametrize("name", NAMES)
def test_the_golden_models_compile_alike_twice(name: str, tmp_path: Path) -> None:
    files = golden_job(tmp_path, name)
    texts = []
    for output in ("first", "second"):
        plan = compile(files.job, str(files.cluster), tmp_path / output, Options(costs="roofline"))
        assert len(plan.plan.stages) == 2
        names = ("graph.json", "schedule.yaml", "stages/stage_0.py", "stages/stage_1.py")
        texts.append([(tmp_path / output / name).read_text() for name in names])
        torch.manual_seed(len(texts))
    assert texts[0] == texts[1]
