"""graph.json is read into frozen values, or refused with the key that is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipecut.errors import PlanError
from pipecut.plan.folder import seal
from pipecut.plan.schema.graph import PlanGraph
from tests.plans import GRAPH_DATA, OPERATOR, write_made_plan


def parsed(**changes: Any) -> PlanGraph:
    return PlanGraph.model_validate_json(json.dumps({**GRAPH_DATA, **changes}))


def test_what_is_read_is_typed_and_frozen() -> None:
    graph = parsed()
    operator = graph.operators[0]
    assert operator.inputs == ("x", "weight_0") and operator.placed_on == (0,)
    assert graph.values["x"].shape == ("batch", 4)
    with pytest.raises(ValidationError, match="frozen"):
        operator.stage = 1  # type: ignore[misc]


def test_a_graph_prints_its_operators() -> None:
    evaluation = {
        "loss": "loss",
        "operators": [
            {"name": "out", "target": "relu", "module": "a", "inputs": ["x"], "stage": 1}
        ],
        "outputs": {},
        "buffers": [],
    }
    seconds = {"slow-core": 1.0, "fast-core": 0.5}
    text = str(
        parsed(
            operators=[{**OPERATOR, "stages": [0, 1, 3], "forward_seconds": seconds}],
            evaluation=evaluation,
        )
    )
    lines = [line.split("  ") for line in text.splitlines()]
    cells = [[cell.strip() for cell in line if cell] for line in lines]
    assert cells[0] == ["placed graph of 1 operator, 1 parameter, 1 buffer, loss hidden_0"]
    assert cells[3][:2] == ["0-1, 3", "hidden_0"]
    assert cells[3][4:] == ["slow-core 1 s, fast-core 500 ms", "2 s", "8 B"]
    assert cells[-1] == ["1", "out", "a", "relu"]


def test_an_operator_that_several_stages_make_is_placed_on_all_of_them() -> None:
    graph = parsed(operators=[{**OPERATOR, "stages": [0, 2]}])
    assert graph.operators[0].placed_on == (0, 2)


def test_what_is_dumped_is_what_was_read() -> None:
    graph = parsed()
    data = json.loads(json.dumps(graph.model_dump(exclude_unset=True)))
    assert data == {key: value for key, value in GRAPH_DATA.items() if key != "problem"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"operators": [{**OPERATOR, "stage": "0"}]}, r"graph.json: operators\.0\.stage: "),
        ({"operators": [{**OPERATOR, "saved_bytes": -1}]}, r"operators\.0\.saved_bytes: "),
        (
            {"operators": [{**OPERATOR, "forward_seconds": {"slow-core": float("nan")}}]},
            r"operators\.0\.forward_seconds\.slow-core: ",
        ),
        ({"buffers": [{"value": "seen", "names": []}]}, r"buffers\.0\.names: "),
        ({"values": None}, r"graph.json: values: .*; compile again"),
    ],
)
def test_a_wrong_value_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = write_made_plan(tmp_path, graph=json.dumps({**GRAPH_DATA, **changes}))
    with pytest.raises(PlanError, match=message):
        seal(folder)


@pytest.mark.parametrize("text", ["[]", "7"])
def test_what_is_no_mapping_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(
        PlanError, match="graph.json: expected a mapping of keys, found a (list|int)"
    ):
        seal(write_made_plan(tmp_path, graph=text))


@pytest.mark.parametrize("text", ["", "{", "[" * 5000, '{"loss": "\\ud800"}', "nul"])
def test_what_is_no_json_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="graph.json: not valid JSON: .*; compile again"):
        seal(write_made_plan(tmp_path, graph=text))


def test_what_is_sealed_reads_as_the_same_graph(tmp_path: Path) -> None:
    assert seal(write_made_plan(tmp_path)).graph == parsed()
