"""The published placement format, and a plan's own problem, read into problems."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipecut.compiler.partition.standalone.graph_json import as_data, mistakes, plan_problem
from pipecut.compiler.partition.standalone.published import published_problem
from pipecut.compiler.partition.standalone.read import in_turns, read_problem
from pipecut.errors import UserFileError
from tests.compiler.partition.problems import chain


def node(name: Any, seconds: float = 1.0, size: float = 10.0, **more: Any) -> dict[str, Any]:
    return {"id": name, "fpgaLatency": seconds, "size": size, **more}


def edge(source: Any, user: Any, cost: float = 1.0) -> dict[str, Any]:
    return {"sourceId": source, "destId": user, "cost": cost}


def graph(nodes: list[dict[str, Any]], edges: list[dict[str, Any]]) -> dict[str, Any]:
    return {"maxFPGAs": 2, "maxSizePerFPGA": 100, "nodes": nodes, "edges": edges}


def test_nodes_of_a_colour_are_one_block() -> None:
    nodes = [
        node("a", 1.0, colorClass=7),
        node("b", 2.0),
        node("back", 4.0, colorClass=7, isBackwardNode=1),
    ]
    edges = [edge("a", "b", 2.0), edge("b", "back", 3.0)]
    named = published_problem(graph(nodes, edges), "file", None, None)
    problem = named.problem
    assert named.names == ["a", "b", "back"]
    assert [row.operators for row in problem.blocks] == [(0, 2), (1,)]
    assert [row.seconds["device"] for row in problem.blocks] == [5.0, 2.0]
    assert [row.bytes for row in problem.shared] == [20, 10]
    # Only edges of forward say what comes first; a tensor back costs as any other.
    assert problem.edges == {(0, 1)} and problem.comm == "direct"
    moved = [(row.source, row.consumers, row.forward_bytes) for row in problem.tensors]
    assert moved == [(0, (1,), 2.0), (1, (0,), 3.0)]


def test_colours_on_a_cycle_are_merged() -> None:
    nodes = [node(0, colorClass="u"), node(1, colorClass="v"), node(2, colorClass="u")]
    named = published_problem(graph(nodes, [edge(0, 1), edge(1, 2)]), "file", 3, 50)
    assert len(named.problem.blocks) == 1 and len(named.problem.stage_devices) == 3
    assert named.problem.stage_devices[0].capacity == 50


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (graph([node(0)], [edge(0, 9)]), "an edge names node 9"),
        (graph([], []), "needs at least one node and one device"),
        (graph([{"id": 0}], []), "not the published format: KeyError 'fpgaLatency'"),
        (graph([node(0, size="much")], []), "not the published format: ValueError"),
    ],
)
def test_what_is_not_the_format_is_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UserFileError, match=message):
        published_problem(data, "file", None, None)


def plan_data() -> dict[str, Any]:
    """What a plan's graph.json has of a problem."""
    operators = [{"name": f"op{index}"} for index in range(3)]
    return json.loads(
        json.dumps({"problem": as_data(chain([1.0, 2.0, 3.0], 2)), "operators": operators})
    )


def test_a_problem_survives_its_file() -> None:
    named = plan_problem(plan_data(), "graph.json", None, None)
    assert named.problem == chain([1.0, 2.0, 3.0], 2)
    assert named.names == ["op0", "op1", "op2"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("problem", "stage_devices", 0, "capacity"), "much", "problem.stage_devices.0.capacity:"),
        (("problem", "blocks"), None, r"problem.blocks: .*; compile the plan again"),
        (("operators", 0), {}, "it has no key 'name'"),
        (("operators",), 3, "operators must be a list"),
    ],
)
def test_the_key_that_is_wrong_is_named(path: tuple[Any, ...], value: Any, message: str) -> None:
    data = plan_data()
    *inner, last = path
    around: Any = data
    for key in inner:
        around = around[key]
    around[last] = value
    with pytest.raises(UserFileError, match=message):
        plan_problem(data, "graph.json", None, None)


def test_other_devices_are_like_the_last_with_fewer_in_flight() -> None:
    named = plan_problem(plan_data(), "graph.json", 4, 77)
    assert [row.in_flight for row in named.problem.stage_devices] == [4, 3, 2, 1]
    assert {row.capacity for row in named.problem.stage_devices} == {77}


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        ({"edges": frozenset({(0, 9)})}, "block 9 is named, but there are 3"),
        ({"pins": ((0, 7),)}, "stage 7 is named, but there are 2"),
        ({"edges": frozenset({(1, 0)})}, "an edge goes from 1 back to 0"),
        ({"stage_devices": ()}, "it has no stage devices"),
        ({"devices": (0,)}, "devices and stage devices differ in number"),
    ],
)
def test_a_mistake_is_named(change: dict[str, Any], mistake: str) -> None:
    problem = replace(chain([1.0] * 3, 2), **change)
    assert mistake in list(mistakes(problem, 3))
    assert list(mistakes(chain([1.0] * 3, 2), 3)) == []


def test_an_operator_that_is_not_there_is_named() -> None:
    assert "operator 2 is named, but there are 2" in list(mistakes(chain([1.0] * 3, 2), 2))


def test_several_stages_take_turns_on_a_device() -> None:
    problem = in_turns(chain([1.0] * 4, 2), 2)
    assert problem.devices == (0, 1, 0, 1) and len(problem.stage_devices) == 4


def test_transfers_are_as_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(plan_data()))
    assert read_problem(path, comm="direct").problem.comm == "direct"
    assert read_problem(path).problem.comm == "relay"
