"""Each microbatch is traced and costed once, and estimated where that is close enough."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipecut.compiler import graphs as module
from pipecut.compiler.graph import Graph
from pipecut.compiler.graphs import Costs, Graphs
from pipecut.compiler.inputs.job import Job
from pipecut.compiler.profile.measured_costs import MeasuredCosts, ReportedCosts
from tests.compiler.chain_graphs import chain
from tests.costs import KIND, made_cluster, made_job


@pytest.fixture
def traced(monkeypatch: Any) -> list[int]:
    """The microbatches that were traced, in order."""
    sizes: list[int] = []

    def trace(job: Job) -> Graph:
        sizes.append(job.microbatch)
        return chain(2)

    monkeypatch.setattr(module, "trace", trace)
    return sizes


def test_a_microbatch_is_traced_once(traced: list[int]) -> None:
    graphs = Graphs(made_job(), 2)
    assert graphs[2] is graphs.first and graphs[4] is graphs[4]
    assert traced == [2, 4]


def test_an_estimate_is_the_first_graph_resized_or_what_was_traced(traced: list[int]) -> None:
    graphs = Graphs(made_job(), 2)
    assert graphs.estimate(2) is graphs.first
    assert graphs.estimate(6).values["linear_0"].sizes == (6, 4)
    assert traced == [2]
    assert graphs.estimate(4) is not graphs[4] and graphs.estimate(4) is graphs[4]


def test_a_graph_whose_batch_is_fixed_is_traced_for_each(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "trace", lambda job: replace(chain(2), dynamic=False))
    graphs = Graphs(made_job(), 2)
    assert graphs.estimate(4) is graphs[4]


def test_costs_are_computed_once_and_say_what_they_do(traced: list[int]) -> None:
    said: list[str] = []
    costs = Costs(Graphs(made_job(), 2, said.append), made_cluster(), MeasuredCosts(), said.append)
    assert costs[2] is costs[2] is costs.estimate(2)
    assert costs.estimate(4) is costs.estimate(4) and costs.estimate(4) is not costs[4]
    assert said == [
        "tracing the model for a microbatch of 2",
        "costing 3 operators",
        "tracing the model for a microbatch of 4",
        "costing 3 operators",
    ]


def test_measured_seconds_stand_in_place_of_estimates(traced: list[int]) -> None:
    rows = {operator.name: (3.0, 4.0) for operator in chain(2).operators}
    measured = MeasuredCosts(
        "measured:x", report=ReportedCosts(microbatch=2, operators={KIND: rows})
    )
    costs = Costs(Graphs(made_job(), 2), made_cluster(), measured)
    assert costs[2].costs[0].forward == {KIND: 3.0}
    assert (costs.measured_kinds(2), costs.unmeasured_kinds(2)) == ((KIND,), ())
    # The report is of another microbatch.
    assert (costs.measured_kinds(4), costs.unmeasured_kinds(4)) == ((), (KIND,))


def test_the_job_of_the_graphs_is_left_as_it_is(traced: list[int]) -> None:
    job = made_job()
    Graphs(job, 1)
    assert job.microbatch == 2 and job.path == Path("job.yaml")
