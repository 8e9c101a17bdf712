"""The pages of all keys are written from the schemas."""

from pathlib import Path
from typing import Annotated

import pytest
import yaml
from pydantic import TypeAdapter

from pipecut.compiler.inputs.cluster_schema import ClusterSpec
from pipecut.compiler.inputs.document.mistakes import inner_schema
from pipecut.compiler.inputs.document.read import read_document
from pipecut.compiler.inputs.document.schema import FileSchema
from pipecut.compiler.inputs.job import JobSpec
from pipecut.compiler.inputs.reference import COMMAND, PAGES, Page, main
from pipecut.compiler.schedules.registry import SCHEDULES

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("name", PAGES)
def test_the_page_in_docs_is_that_of_the_schema(name: str) -> None:
    assert (DOCS / name).read_text() == str(PAGES[name]), f"run {COMMAND}"


def test_the_command_writes_every_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["reference", str(tmp_path)])
    main()
    assert {path.name for path in tmp_path.iterdir()} == set(PAGES)


def test_every_schedule_is_on_the_page_of_the_job_file() -> None:
    row = next(
        line for line in str(PAGES["job.md"]).splitlines() if line.startswith("| `schedule`")
    )
    assert all(f"`{name}`" in row for name in (*SCHEDULES, "auto"))


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_the_example_of_a_page_is_a_file_that_can_be_read(page: Page, tmp_path: Path) -> None:
    indented = [line[4:] for line in page.example.splitlines() if line.startswith("    ")]
    path = tmp_path / page.file
    path.write_text("\n".join(indented))
    assert read_document(path, page.schema)


@pytest.mark.parametrize("schema", [JobSpec, ClusterSpec])
def test_every_key_says_what_it_means_and_has_examples_of_its_type(
    schema: type[FileSchema],
) -> None:
    for name, field in schema.model_fields.items():
        assert field.description and field.description.endswith("."), name
        assert field.examples, name
        for example in field.examples:
            TypeAdapter(Annotated[field.annotation, "", *field.metadata]).validate_python(
                yaml.safe_load(example), strict=True
            )
        inner = inner_schema(field.annotation)
        if inner is not None:
            test_every_key_says_what_it_means_and_has_examples_of_its_type(inner)
