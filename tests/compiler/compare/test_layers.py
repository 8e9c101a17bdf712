"""Of a model that is too large to run, a layer of each kind is run beside its operators."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipecut.compiler.compare import limits
from pipecut.compiler.compare.compare import compare
from pipecut.compiler.compare.limits import RunSize, sizes_to_run
from pipecut.compiler.inputs.job import Job, read_job
from pipecut.compiler.trace.trace import trace
from pipecut.errors import TraceError
from tests.compiler.chain_graphs import chain


@pytest.fixture
def job(tmp_path: Path) -> Callable[[str], Job]:
    def write(odd: str) -> Job:
        here, path = "tests.models.unseen", tmp_path / "job.yaml"
        path.write_text(
            f'model: {{factory: "{here}:layered", args: {{odd: "{odd}"}}}}\n'
            f'inputs: "{here}:words"\nbatch: {{global: 8, microbatch: 4}}\n'
        )
        return read_job(path)

    return write


@pytest.fixture
def too_large(monkeypatch: Any) -> None:
    monkeypatch.setattr(limits, "MOST_BYTES", 3000)


def test_a_layer_is_compared_where_the_model_is_too_large(
    too_large: None, job: Callable[[str], Job], monkeypatch: Any
) -> None:
    asked = job("")
    graph = trace(asked)
    said: list[str] = []
    compared = compare(asked, graph, progress=said.append)
    expected = "6 layers of Layer: 'layers.1' does what its trace does, by its results"
    assert not compared.compared and f"{expected} and 5 gradients" in str(compared)
    assert expected in said[0]
    monkeypatch.setattr(limits, "MOST_BYTES", 300)
    assert "352 B of parameters are too many" in str(compare(asked, graph))
    assert "layer" not in str(compare(asked, graph, trust=True))


@pytest.mark.parametrize(
    ("odd", "differs"),
    [
        ("gradient", r"layer 'layers\.1'.*gradient/layers\.1\.inside\.bias differs"),
        pytest.param("value", r"layer 'layers\.1'", marks=pytest.mark.slow),
    ],
)
def test_a_layer_that_does_something_else_is_refused(
    odd: str, differs: str, too_large: None, job: Callable[[str], Job]
) -> None:
    asked = job(odd)
    graph = trace(asked)
    with pytest.raises(TraceError, match=f"{differs}.*--trust-trace"):
        compare(asked, graph)


def test_a_model_that_takes_long_is_compared_with_fewer_samples(
    job: Callable[[str], Job], monkeypatch: Any
) -> None:
    asked = job("")
    graph = trace(asked)
    flops = sum(limits.estimated_flops(operator, graph) for operator in graph.operators)
    monkeypatch.setattr(limits, "MOST_FLOPS", 0.6 * flops)
    compared = compare(asked, graph)
    assert compared.compared and "of 2 batches of 2 samples" in str(compared)


def test_sizes_are_reduced_as_far_as_the_graph_leaves_them_open() -> None:
    graph = chain(2)
    assert list(sizes_to_run(graph, 2)) == [RunSize(2)]
    assert [size.samples for size in sizes_to_run(graph, 8)] == [8, 2]
    fixed = replace(graph, dynamic=False)
    assert list(sizes_to_run(fixed, 8)) == [RunSize(8)]
    long = replace(graph, lengths={"length": 512}, shortest={"length": 2})
    *_, least = sizes_to_run(long, 8)
    assert (least.samples, dict(least.lengths)) == (2, {"length": 32})
    assert least.reduced == "of 2 samples at length 32"
    assert least.shorter(long) == {"length": 17}
