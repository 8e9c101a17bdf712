"""Sizes that depend on data in a graph: named, bounded, kept on one stage, read in stage code."""

import re
from pathlib import Path

import pytest

from pipecut.compiler.graph import Graph, Sym
from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.partition.coarsen.groups import kept_together
from pipecut.compiler.stages.cut import cut
from pipecut.compiler.stages.source import write_stage
from pipecut.compiler.trace.trace import trace
from pipecut.errors import TraceError

JOB = """
model: {{factory: "tests.models.data_sizes.rows:chosen", args: {{kind: {kind}}}}}
inputs: "tests.models.data_sizes.rows:rows"
batch: {{global: 8, microbatch: 4}}
"""


def traced(folder: Path, kind: str) -> Graph:
    path = folder / "job.yaml"
    path.write_text(JOB.format(kind=kind))
    return trace(read_job(path))


def code_of(graph: Graph) -> str:
    (whole,) = cut(graph, [(0,)] * len(graph.operators), 1)
    return write_stage(graph, whole, 1)


def test_a_size_is_read_off_a_tensor_and_is_that_of_the_example_batch(tmp_path: Path) -> None:
    graph = traced(tmp_path, "places")
    (size,) = graph.data_sizes.values()
    assert (size.most, size.bounded, size.share) == ("batch", True, 0.75)
    assert "rows.py:" in size.source
    assert graph.sizes(8) == {"batch": 8, "u0": 6}
    code = code_of(graph)
    assert ".size(0)" in code and "u0" not in code
    # From the maker to the last reader: all but the layer before.
    together = set(kept_together(graph)["u0"])
    left = [o.name for i, o in enumerate(graph.operators) if i not in together]
    assert left == ["linear", "relu", "gt"]
    assert "the condition u0 != 0 on sizes that depend on data is True" in graph.notes[0]
    assert "sizes depend on data" in graph.notes[1]
    assert "memory is for the most that they can be" in graph.notes[1]


def test_sizes_that_must_be_equal_are_checked(tmp_path: Path) -> None:
    graph = traced(tmp_path, "equal")
    (check,) = graph.checks
    assert check.choice.words == "the condition u0 == u1 on sizes that depend on data"
    code = code_of(graph)
    assert "torch.ops.aten.scalar_tensor.default(" in code and " == " in code


def test_what_nothing_bounds_is_that_of_the_example_batch(tmp_path: Path) -> None:
    graph = traced(tmp_path, "repeated")
    (size,) = graph.data_sizes.values()
    assert (size.bounded, size.share) == (False, 2.5)
    assert "where no most is known" in graph.notes[0]


def test_a_choice_by_such_a_size_is_checked(tmp_path: Path) -> None:
    graph = traced(tmp_path, "asked")
    (check,) = graph.checks
    assert re.fullmatch(r"rows.shape\[0\] == 0 is False \(.*rows.py:\d+\)", str(check.choice))
    assert not check.choice.only_raises
    (made,) = [operator for operator in graph.operators if operator.name == check.value]
    assert made.args == (Sym("u0 == 0", ("u0",)),)


def test_a_choice_whose_answer_small_and_large_sizes_differ_in_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"chooses what to do by .* \(at .*rows.py:\d+\)"):
        traced(tmp_path, "many")
    with pytest.raises(TraceError, match=r"\(at .*rows.py:\d+\).*rows.shape\[0\] for len"):
        traced(tmp_path, "measured")
