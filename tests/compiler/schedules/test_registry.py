"""A schedule is registered once, and everything that names schedules reads the registry."""

import importlib
import pkgutil
import re

import pytest
from typer.testing import CliRunner

from benchmarks.tables import schedules as readme_table
from pipecut.cli import app
from pipecut.compiler import schedules
from pipecut.compiler.inputs.job import JobSpec
from pipecut.compiler.schedules.registry import SCHEDULES, pipeline_ranks_of
from pipecut.compiler.schedules.schedule import Schedule
from pipecut.compiler.search.candidates import SEARCHED

MODULES = [
    importlib.import_module(f"pipecut.compiler.schedules.{module.name}")
    for module in pkgutil.iter_modules(schedules.__path__)
]
# The modules of schedules, by the name of theirs.
DEFINED = {
    value.name: module
    for module in MODULES
    if not module.__name__.endswith("registry")
    for value in vars(module).values()
    if isinstance(value, Schedule)
}


def test_every_schedule_that_is_defined_is_registered() -> None:
    assert set(DEFINED) == set(SCHEDULES)
    assert all(SCHEDULES[name].name == name for name in SCHEDULES)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_picture_in_a_schedules_docstring_is_what_it_does(name: str) -> None:
    drawn = re.findall(r"^rank .*$", DEFINED[name].__doc__ or "", re.MULTILINE)
    microbatches = 1 + max(int(number) for number in re.findall(r"[FBIW](\d)", drawn[0]))
    picture = SCHEDULES[name].picture(
        len(drawn), microbatches, SCHEDULES[name].stages_per_rank or 2
    )
    assert picture.splitlines() == drawn


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_prints_itself(name: str) -> None:
    text = str(SCHEDULES[name]).splitlines()
    assert text[0].startswith(f"{name}: idle ") and text[1].startswith("rank 0   F0 ")


def test_a_schedule_that_returns_ends_where_it_began() -> None:
    assert pipeline_ranks_of("v-shaped", 6, 2) == (0, 1, 2, 2, 1, 0)
    assert pipeline_ranks_of("interleaved", 6, 2) == (0, 1, 2, 0, 1, 2)


def test_job_files_searches_and_help_know_every_schedule() -> None:
    choices = JobSpec.model_json_schema()["properties"]["schedule"]
    shown = CliRunner().invoke(app, ["specs"], env={"COLUMNS": "200"}).output
    for name in SCHEDULES:
        assert f'"{name}"' in str(choices).replace("'", '"') and name in shown
        assert f"`{name}`" in readme_table({})
    assert set(SEARCHED) < set(SCHEDULES)
