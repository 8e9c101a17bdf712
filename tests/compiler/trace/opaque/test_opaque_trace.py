"""Opaque modules in a graph: one operator each, with all that it holds, writes and draws."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipecut.compiler.graph import Graph
from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.trace.opaque.untraceable import Untraceable, make_opaque
from pipecut.compiler.trace.trace import trace
from pipecut.errors import PipecutError

JOB = """
model: {{factory: "tests.models.opaque:{name}", args: {args}, opaque: {opaque}}}
inputs: "tests.models.opaque:{inputs}"
batch: {{global: 8, microbatch: 2}}
"""


def traced(folder: Path, name: str, inputs: str, opaque: str, args: str = "{}") -> Graph:
    path = folder / "job.yaml"
    path.write_text(JOB.format(name=name, inputs=inputs, opaque=opaque, args=args))
    return trace(read_job(path))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: Any) -> Graph:
    folder = tmp_path_factory.mktemp("opaque")
    return traced(folder, "mixture", "tokens", '["layers.*.moe"]', "{layers: 2, tied: true}")


def test_a_module_is_one_operator_with_all_that_it_holds(graph: Graph) -> None:
    operators = [operator for operator in graph.operators if operator.opaque]
    assert [operator.module for operator in operators] == ["layers.0.moe", "layers.1.moe"]
    names = {p.value: p.names for p in graph.parameters} | {b.value: b.names for b in graph.buffers}
    last = operators[1]
    held = {name for value in last.inputs for name in names.get(value, ())}
    assert "layers.1.moe.gate.bias" in held and "layers.1.moe.counts" in held
    # Tied with the other layer's.
    assert "layers.0.moe.experts.0.weight" in held
    assert [names[value] for value in last.writes] == [("layers.1.moe.counts",)]
    inside = [o.module for o in graph.operators if o.module.startswith("layers.1.moe.")]
    assert not inside and re.search(r"opaque\.py:\d+", last.source)


def test_its_results_follow_the_batch_and_gradients(graph: Graph) -> None:
    operator = next(operator for operator in graph.operators if operator.opaque)
    hidden, counts = (graph.values[name] for name in graph.results_of(operator))
    assert (hidden.shape, hidden.needs_grad) == (("batch", 6, 16), True)
    assert (counts.shape, counts.dtype, counts.needs_grad) == ((3,), "int64", False)


def test_its_results_follow_a_length(tmp_path: Path) -> None:
    graph = traced(tmp_path, "mixture", "ragged", '["layers.*.moe"]', "{layers: 1}")
    operator = next(operator for operator in graph.operators if operator.opaque)
    hidden, counts = (graph.values[name] for name in graph.results_of(operator))
    assert graph.lengths == {"length": 12}
    assert (hidden.shape, counts.shape) == (("batch", "length", 16), (3,))


def test_where_a_result_follows_no_length_all_have_that_of_the_example(tmp_path: Path) -> None:
    graph = traced(tmp_path, "added", "ragged", "[longer]")
    assert graph.dynamic and not graph.lengths
    assert graph.notes[0].startswith(
        "this plan takes batches of length 12 only ('longer' runs as it is, and a size of what it "
        "takes or returns is 13 with batch 2 and length 12, 13 with batch 3 and length 12, 7 with "
        "batch 2 and length 6: it is neither fixed nor"
    )


def test_all_its_draws_are_one(graph: Graph) -> None:
    draws = [draw for operator in graph.operators for draw in operator.draws]
    assert draws == [0, 1, 2, 3]
    assert [o.draws for o in graph.operators if o.opaque] == [(1,), (3,)]
    assert graph.notes == ("layers.*.moe runs as it is: the job says so, in model.opaque",)


def test_what_cannot_be_traced_is_opaque_by_itself(tmp_path: Path) -> None:
    graph = traced(tmp_path, "mixture", "tokens", "[]", "{layers: 2}")
    opaque = [operator.module for operator in graph.operators if operator.opaque]
    assert opaque == ["layers.0.moe", "layers.1.moe"]
    (note,) = graph.notes
    assert note.startswith("layers.*.moe runs as it is: the model chooses what to do by a tensor's")
    with pytest.raises(PipecutError, match="the model chooses what to do by a tensor's value"):
        traced(tmp_path, "mixture", "tokens", "never", "{layers: 2}")


def test_a_model_that_is_too_large_to_hold_runs_module_by_module(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of a block; the model has more than twice as much.
    monkeypatch.setattr("pipecut.compiler.trace.opaque.learning.MOST_BYTES", 5000)
    args = "{layers: 2, tied: true}"
    of_parts = traced(tmp_path, "mixture", "tokens", '["layers.*.moe"]', args)
    assert of_parts.values == graph.values
    pairs = zip(of_parts.operators, graph.operators, strict=True)
    for operator, expected in pairs:
        opaque, other = operator.opaque, expected.opaque
        if opaque is not None and other is not None:
            opaque = replace(opaque, work=other.work)
        assert replace(operator, opaque=opaque) == expected


def test_a_large_module_that_uses_the_parameters_of_another_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipecut.compiler.trace.opaque.learning.MOST_BYTES", 5000)
    with pytest.raises(PipecutError, match="runs module by module, .*have each module use its own"):
        traced(tmp_path, "tied_head", "tokens", '["layers.*.moe"]')


def test_hooks_of_an_opaque_module_are_part_of_it(tmp_path: Path) -> None:
    graph = traced(tmp_path, "odd", "tokens", "[blocks.hooked]", "{kinds: [hooked]}")
    assert not [o for o in graph.operators if o.module == "blocks.hooked" and not o.opaque]


REFUSED = {
    "[nothing.*]": "job.yaml:2:69: model.opaque: 'nothing.*' matches no module; the model's begin",
    "[chosen]": "cannot run as it is within a plan: it returned [1, 4] for some values and [0, 4]",
}


@pytest.mark.parametrize("opaque", REFUSED)
def test_what_cannot_be_opaque_is_refused(opaque: str, tmp_path: Path) -> None:
    with pytest.raises(PipecutError) as caught:
        traced(tmp_path, "choosing", "rows", opaque)
    assert REFUSED[opaque] in str(caught.value)


def test_a_model_that_cannot_be_traced_itself_is_told_to_have_a_module(tmp_path: Path) -> None:
    with pytest.raises(PipecutError, match=r"tensor's value.*; or put these lines into a module"):
        traced(tmp_path, "picking", "rows", "[]")


def test_state_outside_modules_that_moves_on_is_refused(tmp_path: Path) -> None:
    refused = r"opaque.CALLS \(its length\)' depends on earlier forwards.*opaque.py:\d+"
    with pytest.raises(PipecutError, match=refused):
        traced(tmp_path, "odd", "tokens", "[blocks.counted]", "{kinds: [counted]}")
    graph = traced(tmp_path, "odd", "tokens", "[blocks.table]", "{kinds: [table]}")
    assert any(operator.opaque for operator in graph.operators)


def test_a_list_of_modules_is_never_called(tmp_path: Path) -> None:
    with pytest.raises(PipecutError, match="is never called, so it cannot run as it is; name"):
        traced(tmp_path, "mixture", "tokens", "[layers]", "{layers: 2}")


def test_modules_side_by_side_become_opaque_in_turn_and_then_what_is_around(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB.format(name="mixture", inputs="tokens", opaque="[]", args="{}"))
    job, opaque = read_job(path), []
    for failing in ("parts.0", "parts.2", "parts.2", "parts"):
        wider = make_opaque(job, Untraceable("", failing))
        if wider is None:
            break
        opaque, job = list(wider.opaque), wider
    assert wider is None and opaque == ["parts.0", "parts.2", "parts"]
