"""An ONNX graph on a cluster: blocks, edges, memory, transfers, and the whole through solve."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipecut.compiler.inputs.cluster_file import read_cluster
from pipecut.compiler.partition.place import SolverOptions
from pipecut.compiler.partition.standalone.onnx_model.problem import onnx_problem
from pipecut.compiler.partition.standalone.onnx_model.read import read_onnx
from pipecut.compiler.partition.standalone.read import Uncosted
from pipecut.compiler.partition.standalone.solve import solve_file
from pipecut.errors import UserFileError
from tests.compiler.partition.standalone.onnx_model.models import CHAIN, write


def test_what_depends_on_no_input_is_made_where_it_is_used(tmp_path: Path, slow_cores: str) -> None:
    graph = read_onnx(write(tmp_path / "m.onnx", CHAIN), {"batch": 8})
    named = onnx_problem(graph, read_cluster(slow_cores), 2, None)
    problem, names = named.problem, named.names
    placed = [names[index] for block in problem.blocks for index in block.operators]
    assert placed == ["first", "act", "second", "view", "skip"]
    copies = {names[row.operator]: row.users for row in problem.duplicated}
    assert copies == {"turn": (2,), "shape": (3,)}
    held = {shared.name: (shared.bytes, shared.users) for shared in problem.shared}
    assert held == {"w1": (64 * 64 * 4, (0,)), "w2": (64 * 64 * 4, (2,))}
    assert problem.edges == {(0, 1), (1, 2), (2, 3), (3, 4)}
    assert {t.name: t.consumers for t in problem.tensors}["h2"] == (2, 4)
    assert problem.comm == "direct" and len(problem.stage_devices) == 2


def test_seconds_are_those_of_the_roofline(tmp_path: Path, slow_cores: str) -> None:
    graph = read_onnx(write(tmp_path / "m.onnx", CHAIN), {"batch": 8})
    first, act = onnx_problem(graph, read_cluster(slow_cores), 2, None).problem.blocks[:2]
    # 100 MFLOP/s, 1 GB/s.
    assert first.seconds == {"slow-core": pytest.approx(2 * 8 * 64 * 64 / 100e6)}
    assert act.seconds == {"slow-core": pytest.approx(8 * 64 / 100e6)}
    assert 2 * 8 * 64 * 4 / 1e9 < 8 * 64 / 100e6


def test_a_model_is_cut_evenly_and_every_node_is_on_a_device(
    tmp_path: Path, slow_cores: str
) -> None:
    path = write(tmp_path / "m.onnx", CHAIN)
    uncosted = Uncosted(slow_cores, {"batch": 8})
    solved = solve_file(path, SolverOptions(gap=1e-7), 2, uncosted=uncosted)
    assert solved.status == "optimal"
    assert solved.stages[0].nodes == ["first", "act"]
    assert sorted(solved.stages[1].nodes) == ["second", "shape", "skip", "turn", "view"]
    assert solved.stages[0].bytes >= 64 * 64 * 4
    assert solved.estimated == "2 x slow-core of slow-cores"


def test_memory_that_does_not_fit_is_said(tmp_path: Path, slow_cores: str) -> None:
    path = write(tmp_path / "m.onnx", CHAIN)
    solved = solve_file(
        path, SolverOptions(), 2, "16KiB", uncosted=Uncosted(slow_cores, {"batch": 8})
    )
    assert solved.status == "infeasible" and solved.why


def test_too_few_devices_are_refused(tmp_path: Path, slow_cores: str) -> None:
    path = write(tmp_path / "m.onnx", CHAIN)
    with pytest.raises(UserFileError, match="has 8; name a larger one with --cluster"):
        solve_file(path, SolverOptions(), 99, uncosted=Uncosted(slow_cores, {"batch": 8}))


def test_a_costed_graph_takes_neither_cluster_nor_dimensions(tmp_path: Path) -> None:
    (tmp_path / "graph.json").write_text("{}")
    with pytest.raises(UserFileError, match="--dim is for ONNX models"):
        solve_file(tmp_path / "graph.json", SolverOptions(), 2, uncosted=Uncosted(None, {"n": 1}))


def test_solving_does_without_torch(tmp_path: Path, slow_cores: str) -> None:
    path = write(tmp_path / "m.onnx", CHAIN)
    arguments = ["pipecut", "solve", str(path), "--devices", "2", "--cluster", slow_cores]
    program = (
        "import sys; sys.modules['torch'] = None\n"
        f"sys.argv = {[*arguments, '--dim', 'batch=8', '--json']}\n"
        "from pipecut.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stages"][0] == ["first", "act"]
