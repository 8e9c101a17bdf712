"""Seconds by the roofline, over the part of it that each operator is known to reach."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipecut.compiler.costs.roofline import cost
from pipecut.compiler.graph import Graph
from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.inputs.cluster_file import read_cluster
from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.trace.trace import trace
from pipecut.errors import UserFileError

PARTS = (("linear", (0.5, 0.25)), ("other", (0.1, 0.2)))


@pytest.fixture
def graph(write_job: Any) -> Graph:
    return trace(read_job(write_job("mlp", "vectors")))


def test_operators_take_what_their_part_says(graph: Graph, slow_cores: str) -> None:
    plain = read_cluster(slow_cores)
    known = Cluster(
        "known", tuple(replace(d, operators=PARTS) for d in plain.devices), plain.inside, None, 0
    )
    rows = zip(
        graph.operators,
        cost(graph, plain, "fp32", 2).costs,
        cost(graph, known, "fp32", 2).costs,
        strict=True,
    )
    seen = set()
    for operator, before, after in rows:
        forward, backward = dict(PARTS)["linear" if "linear" in operator.target else "other"]
        assert after.forward["slow-core"] == pytest.approx(before.forward["slow-core"] / forward)
        assert after.backward["slow-core"] == pytest.approx(before.backward["slow-core"] / backward)
        seen.add(operator.target)
    assert len(seen) > 2


def test_a_part_of_nothing_is_refused(slow_cores: str) -> None:
    path = Path(slow_cores)
    path.write_text(
        path.read_text().replace("efficiency: 1,", "efficiency: 1, operators: {linear: [0.5, 0]},")
    )
    with pytest.raises(UserFileError, match=r"slow-cores.yaml:5:\d+: .*linear"):
        read_cluster(slow_cores)
