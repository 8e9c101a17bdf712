"""Code blocks of the pages, as far as they can be read without running them."""

import ast
import shlex
from pathlib import Path

import click
import pytest
import typer
import yaml

from pipecut.cli import app
from pipecut.compiler.inputs.job import JobSpec
from tests.pages.blocks import ROOT, Block, blocks
from tests.pages.trials import TRIALS

# api.md is made of signatures.
PAGES = [ROOT / "README.md", *sorted(set((ROOT / "docs").glob("*.md")) - {ROOT / "docs/api.md"})]
JOB = {
    "model": {"factory": "m:build"},
    "inputs": "m:inputs",
    "batch": {"global": 8, "microbatch": 2},
}
ALL = [(page, block) for page in PAGES for block in blocks(page)]


def block_id(value: object) -> str:
    return f"{value.name}" if isinstance(value, Path) else f"{value.line}"  # type: ignore[attr-defined]


SHELL = [(page, block) for page, block in ALL if block.is_shell]
YAML = [
    (page, block)
    for page, block in ALL
    if block.text.split()[0] in {f"{key}:" for key in JobSpec.model_fields}
]


@pytest.mark.parametrize(("page", "block"), SHELL, ids=block_id)
def test_commands_have_the_options_that_pages_give_them(page: Path, block: Block) -> None:
    group = typer.main.get_command(app)
    for command in block.commands():
        words = shlex.split(command, comments=True)
        if words and words[0] == "pipecut":
            _parse(group, words[1:])


def _parse(command: click.Command, words: list[str]) -> None:
    """Raises click's usage error for a command or an option that is none."""
    context = command.make_context("pipecut", list(words))
    if isinstance(command, click.Group):
        _, inner, rest = command.resolve_command(context, [*context.protected_args, *context.args])
        assert inner is not None
        _parse(inner, rest)


@pytest.mark.parametrize(("page", "block"), YAML, ids=block_id)
def test_parts_of_job_files_are_valid(page: Path, block: Block) -> None:
    JobSpec.model_validate({**JOB, **yaml.safe_load(block.text)})


def test_pages_with_commands_are_tried() -> None:
    """Those without a trial say nothing that could be typed here."""
    tried = {ROOT / page for page in TRIALS}
    untried = {page.name for page, block in SHELL if page not in tried}
    assert untried == {"families.md", "measurements.md", "several-machines.md"}


def test_what_is_left_out_is_on_the_page() -> None:
    for page, trial in TRIALS.items():
        found = blocks(ROOT / page)
        begins = [block.text for block in found]
        begins += [command for block in found if block.is_shell for command in block.commands()]
        for begin in (*trial.left_out, *trial.first):
            assert any(text.startswith(begin) for text in begins), f"{page}: {begin}"


def test_python_is_python() -> None:
    for page, trial in TRIALS.items():
        for block in blocks(ROOT / page):
            is_python = "pipe." in block.text or block.text.startswith(("import ", "from "))
            if is_python and not block.text.startswith(tuple(trial.left_out)):
                ast.parse(block.text)
