"""pipecut solve: published workloads to their optima, other files read or refused in one line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.compiler.partition.place import SolverOptions
from pipecut.compiler.partition.standalone.read import read_problem
from pipecut.compiler.partition.standalone.solve import solve_file
from pipecut.errors import UserFileError

ROOT = Path(__file__).parents[4]
# A diamond of five nodes, its backward nodes tied to it by colour. Small enough to count by hand.
DIAMOND: dict[str, Any] = {
    "maxFPGAs": 2,
    "maxSizePerFPGA": 1000,
    "nodes": [
        {"id": v, "fpgaLatency": time, "size": 100, "isBackwardNode": back, "colorClass": color}
        for v, time, back, color in [
            (1, 4, 0, 1),
            (2, 2, 0, 2),
            (3, 3, 0, 3),
            (4, 5, 0, 4),
            (11, 4, 1, 1),
            (14, 5, 1, 4),
        ]
    ],
    "edges": [
        {"sourceId": u, "destId": v, "cost": cost}
        for u, v, cost in [(1, 2, 1), (1, 3, 1), (2, 4, 1), (3, 4, 1), (14, 11, 2)]
    ],
}


def write(folder: Path, data: dict[str, Any]) -> Path:
    path = folder / "graph.json"
    path.write_text(json.dumps(data))
    return path


def solve(path: Path, **options: Any) -> dict[str, Any]:
    return solve_file(path, SolverOptions("highs", 20.0, 0.0), **options).as_data()


def test_a_graph_counted_by_hand(tmp_path: Path) -> None:
    solved = solve(write(tmp_path, DIAMOND))
    # {1, 3 | 2, 4} is best: 11 and 12 of work, and on each side the tensors of 1 and 3 and the
    # gradient of 4, 1 + 1 + 2.
    assert solved["objective"] == pytest.approx(16)
    assert (
        solved["proven"]
        and solved["status"] == "optimal"
        and solved["gap"] == pytest.approx(0, abs=1e-9)
    )
    assert sorted(v for stage in solved["stages"] for v in stage) == [1, 2, 3, 4, 11, 14]
    assert max(solved["loads"]) == pytest.approx(solved["objective"])
    first, last = solved["stages"]
    assert set(first) == {1, 3, 11} and set(last) == {2, 4, 14}
    assert solved["loads"] == pytest.approx([15, 16])


def test_two_stages_per_device_are_no_slower(tmp_path: Path) -> None:
    chain = [
        {"id": v, "fpgaLatency": time, "size": 1, "isBackwardNode": 0, "colorClass": v}
        for v, time in enumerate([3, 4, 4, 3])
    ]
    edges = [{"sourceId": v, "destId": v + 1, "cost": 0.25} for v in range(3)]
    path = write(tmp_path, {"maxFPGAs": 2, "maxSizePerFPGA": 1000, "nodes": chain, "edges": edges})
    assert solve(path)["objective"] == pytest.approx(7.25)
    chain[1]["fpgaLatency"] = 9
    path = write(tmp_path, {"maxFPGAs": 2, "maxSizePerFPGA": 1000, "nodes": chain, "edges": edges})
    # 3 + 4 + 3 beside 9: the first and the last two on one device, which two stages cannot have.
    single, turns = solve(path), solve(path, stages_per_device=2)
    assert single["objective"] == pytest.approx(12.25)
    assert turns["objective"] == pytest.approx(10.5)
    assert turns["devices"] == [0, 1, 0, 1] and turns["proven"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edges": [[0, 99]]}, "block 99"),
        ({"pins": [[0, 7]]}, "stage 7"),
        ({"stage_devices": []}, "no stage devices"),
        ({"edges": [[1, 0]]}, "back to"),
    ],
)
def test_a_graph_of_ours_that_was_edited_is_refused(
    change: dict[str, Any], message: str, write_job: Any, tmp_path: Path
) -> None:
    compile(
        write_job("mlp", "vectors"), "auto", tmp_path / "plan", Options(SizeOverrides(stages=2))
    )
    data = json.loads((tmp_path / "plan" / "graph.json").read_text())
    data["problem"] |= change
    with pytest.raises(UserFileError, match=message):
        solve(write(tmp_path, data))


def test_too_little_memory_is_infeasible_and_said(tmp_path: Path) -> None:
    solved = solve(write(tmp_path, DIAMOND), capacity="250B")
    assert solved["status"] == "infeasible" and not solved["proven"] and solved["stages"] == []
    assert "memory binds" in solved["why"]


def test_more_devices_never_cost_more(tmp_path: Path) -> None:
    path = write(tmp_path, DIAMOND)
    values = [solve(path, devices=count)["objective"] for count in (1, 2, 3, 4)]
    assert values == sorted(values, reverse=True)


def test_a_plans_own_graph_is_solved_again(write_job: Any, slow_cores: str, tmp_path: Path) -> None:
    plan = compile(
        write_job("mlp", "vectors"), slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=3))
    ).plan
    solved = solve(tmp_path / "plan" / "graph.json")
    assert solved["objective"] == pytest.approx(plan.certificate.objective)
    assert solve(tmp_path / "plan" / "graph.json", devices=2)["objective"] > solved["objective"]


def test_relayed_transfers_pay_at_every_boundary(tmp_path: Path) -> None:
    chain = {
        "maxFPGAs": 3,
        "maxSizePerFPGA": 1000,
        "nodes": [{"id": v, "fpgaLatency": 10, "size": 0} for v in range(3)],
        "edges": [{"sourceId": 0, "destId": 1, "cost": 0}, {"sourceId": 1, "destId": 2, "cost": 0}]
        + [{"sourceId": 0, "destId": 2, "cost": 1}],
    }
    chain["edges"][0]["cost"] = 1
    path = write(tmp_path, chain)
    assert solve(path, comm="direct")["loads"] == pytest.approx([11, 11, 11])
    assert solve(path, comm="relay")["loads"] == pytest.approx([11, 12, 11])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "neither the published format"),
        ('{"nodes": [], "edges": [], "maxFPGAs": 1, "maxSizePerFPGA": 1}', "at least one node"),
        ('{"nodes": [{"id": 1}], "edges": []}', "not the published format"),
        ('{"problem": {}, "operators": []}', "not a plan's graph.json"),
    ],
)
def test_a_file_that_is_no_graph_is_refused_in_one_line(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "graph.json"
    path.write_text(text)
    with pytest.raises(UserFileError, match=message) as caught:
        read_problem(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_plan_folder_is_answered_with_its_graph(tmp_path: Path) -> None:
    (tmp_path / "graph.json").write_text("{}")
    with pytest.raises(UserFileError, match=f"is a plan folder; give its {tmp_path}/graph.json"):
        read_problem(tmp_path)


def test_an_edge_to_nowhere_is_refused(tmp_path: Path) -> None:
    data = {**DIAMOND, "edges": [*DIAMOND["edges"], {"sourceId": 1, "destId": 99, "cost": 1}]}
    with pytest.raises(UserFileError, match="node 99"):
        read_problem(write(tmp_path, data))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 500), st.text(alphabet='{}[]:,0"-x', min_size=1, max_size=3))
def test_a_mutated_graph_is_read_or_refused(at: int, junk: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.json"
        text = json.dumps(DIAMOND)
        path.write_text(text[:at] + junk + text[at + 1 :])
        try:
            read_problem(path)
        except UserFileError as error:
            assert "Traceback" not in str(error)


def test_json_alone_is_on_standard_output(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipecut", "solve", str(write(tmp_path, DIAMOND)), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "optimal"
    done = subprocess.run([*command, "--memory", "250B"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 3 and json.loads(done.stdout)["status"] == "infeasible"
