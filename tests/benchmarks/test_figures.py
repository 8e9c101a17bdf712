"""Pages say what benchmarks measured, and what they measured is what compiling gives."""

from pathlib import Path

import pytest

from benchmarks.compiles.models import EXAMPLES, changes, compiled
from benchmarks.compiles.zoo import CONFIGURATIONS
from benchmarks.figures import ROOT, differing, read_figures, write_figures
from benchmarks.tables import BEST, PAGES, TABLES, with_tables


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_made_from_the_figures(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert with_tables(text, read_figures()) == text, "run python -m benchmarks.tables"


def test_every_table_is_on_a_page() -> None:
    texts = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert all(f"<!-- figures: {name} -->" in texts for name in TABLES)
    assert set(BEST) <= set(CONFIGURATIONS)


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
