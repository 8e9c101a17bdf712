"""Where a compile looks for measured seconds."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipecut.compiler.profile.measured_costs import MeasuredCosts, measured_costs
from pipecut.compiler.request import Options
from pipecut.errors import UserFileError
from tests.compiler.chain_graphs import chain

GRAPH = chain(1)


def report(folder: Path, **fields: Any) -> Path:
    rows = {operator.name: [1.0, 2.0] for operator in GRAPH.operators}
    usual = {"microbatch": 2, "operators": {"core": rows, "gpu": {"linear_0": [1.0, 2.0]}}}
    path = folder / "report.json"
    path.write_text(json.dumps(usual | fields))
    return path


@pytest.mark.parametrize(
    ("option", "required"), [("auto", False), ("roofline", False), ("profile", True)]
)
def test_an_option_says_where_to_look(option: str, required: bool, tmp_path: Path) -> None:
    costs = measured_costs(option, tmp_path / "profile.sqlite")
    assert costs.required == required
    assert (costs.profile is None) == (option == "roofline")
    assert costs.seconds(GRAPH, 2, ["core"]) == {}


def test_a_report_has_seconds_for_kinds_that_ran_every_operator(tmp_path: Path) -> None:
    costs = measured_costs(f"measured:{report(tmp_path)}", None)
    assert costs.required
    assert costs.seconds(GRAPH, 2, ["core", "gpu"]) == {"core": [(1.0, 2.0)] * 2}
    assert costs.seconds(GRAPH, 2, ["gpu"]) == {}


def test_a_report_of_another_microbatch_has_none(tmp_path: Path) -> None:
    assert measured_costs(f"measured:{report(tmp_path)}", None).seconds(GRAPH, 4, ["core"]) == {}


@pytest.mark.parametrize(
    "fields", [{"microbatch": 0}, {"operators": {"core": {"linear_0": [-1.0, 2.0]}}}]
)
def test_a_file_that_is_no_report_is_refused(fields: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserFileError, match="report.json is no report; pipecut run PLAN --report"):
        measured_costs(f"measured:{report(tmp_path, **fields)}", None)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("zz", "--costs zz: must be auto or roofline or profile or measured:REPORT"),
        ("measured:", "--costs measured:: names no file; give measured:REPORT, such as"),
        ("measured", "--costs measured: must be"),
    ],
)
def test_what_is_no_source_is_refused(option: str, message: str) -> None:
    with pytest.raises(UserFileError, match=message):
        measured_costs(option, None)
    with pytest.raises(UserFileError, match=message):
        Options(costs=option)


def test_nothing_is_measured_without_a_file() -> None:
    assert MeasuredCosts().seconds(GRAPH, 2, ["core"]) == {} and not MeasuredCosts().required
