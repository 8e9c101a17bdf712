"""`pipecut init`: what it writes, and that a user's files stay."""

import runpy
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipecut.cli import app
from pipecut.compiler.inputs.job import read_job
from pipecut.errors import UserFileError


def test_the_files_are_a_job_and_its_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path / "new"))
    printed = CliRunner().invoke(app, ["init", str(tmp_path / "new")]).output
    spec = read_job(tmp_path / "new" / "job.yaml").spec
    written = runpy.run_path(str(tmp_path / "new" / "model.py"))
    model = written["build"](**spec.model.args)
    assert model(**written["inputs"](3)).isfinite()
    batch = next(written["batches"]())
    assert len(batch["labels"]) == spec.batch.global_ and model(**batch).isfinite()
    assert [line.split()[:2] for line in printed.splitlines()[-3:]] == [
        ["pipecut", "compile"],
        ["pipecut", "verify"],
        ["pipecut", "run"],
    ]


@pytest.mark.parametrize("name", ["job.yaml", "model.py"])
def test_nothing_is_written_over(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserFileError, match="is there already"):
        CliRunner().invoke(app, ["init", str(tmp_path)], catch_exceptions=False)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"
