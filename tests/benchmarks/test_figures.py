"""README says what benchmarks measured, and what they measured is what compiling gives."""

from pathlib import Path

import pytest

from benchmarks.compiles.models import EXAMPLES, changes, compiled
from benchmarks.compiles.zoo import CONFIGURATIONS
from benchmarks.figures import ROOT, differing, read_figures, write_figures
from benchmarks.tables import README, with_tables


def test_the_tables_of_readme_are_made_from_the_figures() -> None:
    text = README.read_text(encoding="utf-8")
    assert "<!-- figures: models -->" in text
    assert with_tables(text, read_figures()) == text, "run python -m benchmarks.tables"


def test_every_example_has_its_figures() -> None:
    known = {path.name for path in (ROOT / "examples").glob("*.yaml")}
    rows = [row.job for row in CONFIGURATIONS.values() if isinstance(row.job, str)]
    assert known == {*EXAMPLES, *rows}
    measured = set(read_figures()["models"])
    assert measured <= {*EXAMPLES, *CONFIGURATIONS}
    assert measured >= {
        *EXAMPLES,
        *(name for name, row in CONFIGURATIONS.items() if isinstance(row.job, str)),
    }


@pytest.mark.parametrize(
    "name",
    [
        "gpt2-tiny.yaml",
        pytest.param("demo.yaml", marks=pytest.mark.slow),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in CONFIGURATIONS
            if name in read_figures()["models"]
        ),
    ],
)
def test_compiling_gives_what_the_file_says(name: str) -> None:
    assert not changes(read_figures()["models"][name], compiled(name))


def test_a_figure_that_changed_is_named() -> None:
    expected = {"stages": 2, "step_seconds": 1.0, "proven": True}
    assert not differing(
        expected, {"stages": 2, "step_seconds": 1.005, "proven": True}, {"step_seconds": 0.01}
    )
    found = differing(expected, {"stages": 3, "step_seconds": 1.1}, {"step_seconds": 0.01})
    assert [text.split(":")[0] for text in found] == ["stages", "step_seconds", "proven"]


def test_rows_that_were_not_run_stay(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    write_figures("models", {"a": {"stages": 1}, "b": {"stages": 2}}, path)
    write_figures("models", {"b": {"stages": 3}}, path)
    assert read_figures(path)["models"] == {"a": {"stages": 1}, "b": {"stages": 3}}
