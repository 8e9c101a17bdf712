"""The problem of a plan, renumbered so that a cut is a position for each boundary."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipecut.errors import PlanError
from pipecut.plan.folder import read_plan
from pipecut.view.reading.problem import Block, MovedTensor, Pin, Shared, Split, read_problem
from tests.plans import GRAPH_DATA, OPERATOR, write_made_plan


def made_block(*operators: int) -> dict[str, Any]:
    return {
        "operators": operators,
        "seconds": {"slow-core": 3.0},
        "forward_seconds": {"slow-core": 1.0},
        "saved_bytes": 8,
        "transient_bytes": 16,
    }


# Three blocks, of which the last stands on stage 0 and depends on the first alone.
PROBLEM: dict[str, Any] = {
    "blocks": [made_block(0), made_block(1, 2), made_block(3)],
    "edges": [[0, 1], [0, 2]],
    "tensors": [
        {
            "name": "a",
            "source": 0,
            "consumers": [1, 2],
            "forward_bytes": 32.0,
            "backward_bytes": 16.0,
            "messages": 2,
        }
    ],
    "shared": [{"name": "weight", "bytes": 64, "users": [2, 1]}],
    "stage_devices": [
        {"kind": "slow-core", "capacity": 100, "in_flight": 2, "bandwidth": 1e9, "latency": 0.0},
        {"kind": "slow-core", "capacity": 100, "in_flight": 1, "bandwidth": 1e9, "latency": 0.0},
    ],
    "comm": "relay",
    "pins": [[1, 1]],
    "splits": [[0, 1]],
    "recompute": "auto",
    "devices": [],
    "duplicated": [],
}


def plan_with(folder: Path, problem: dict[str, Any] | None) -> Path:
    operators = [
        OPERATOR | {"name": name, "module": module, "stage": stage}
        for name, module, stage in (
            ("a", "h.0.attn", 0),
            ("b", "h.1.attn", 1),
            ("c", "h.1.mlp", 1),
            ("d", "h.0.mlp", 0),
        )
    ]
    data = GRAPH_DATA | {"operators": operators, "problem": problem}
    return write_made_plan(folder, graph=json.dumps(data))


def test_blocks_of_a_stage_stand_together(tmp_path: Path) -> None:
    problem = read_problem(read_plan(plan_with(tmp_path, PROBLEM)))
    assert problem is not None
    assert [(block.name, block.layer, block.stage) for block in problem.blocks] == [
        ("h.0.attn: a", "h.0", 0),
        ("h.0.mlp: d", "h.0", 0),
        ("h.1.mlp: b to c", "h.1", 1),
    ]
    seconds, forward = {"slow-core": 3.0}, {"slow-core": 1.0}
    assert problem.blocks[2] == Block("h.1.mlp: b to c", "h.1", 1, seconds, forward, 8, 16)


def test_what_ties_blocks_follows_their_new_numbers(tmp_path: Path) -> None:
    problem = read_problem(read_plan(plan_with(tmp_path, PROBLEM)))
    assert problem is not None
    assert problem.tensors == (MovedTensor(0, (2, 1), 32.0, 16.0, 2),)
    assert problem.shared == (Shared((1, 2), 64, {}, {}, 0),)
    assert (problem.pins, problem.splits) == ((Pin(2, 1),), (Split(0, 2),))
    assert [(row.device, row.in_flight) for row in problem.devices] == [(0, 2), (1, 1)]


def test_stages_of_one_device_are_told(tmp_path: Path) -> None:
    problem = read_problem(read_plan(plan_with(tmp_path, PROBLEM | {"devices": [0, 0]})))
    assert problem is not None and [row.device for row in problem.devices] == [0, 0]


def test_a_plan_without_its_problem_has_none(tmp_path: Path) -> None:
    assert read_problem(read_plan(plan_with(tmp_path, None))) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"blocks": [made_block(9)]},
        {"tensors": [PROBLEM["tensors"][0] | {"source": 9}]},
        {"devices": [0]},
        {"comm": "pigeon"},
        {"stage_devices": None},
    ],
)
def test_a_broken_problem_is_refused(fields: dict[str, Any], tmp_path: Path) -> None:
    folder = read_plan(plan_with(tmp_path, PROBLEM | fields))
    with pytest.raises(PlanError, match=r"graph.json: its problem cannot be read: .*compile again"):
        read_problem(folder)
