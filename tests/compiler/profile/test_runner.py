"""A hand-made chain runs layer by layer, forward and backward, as stages do."""

from dataclasses import replace

import pytest
import torch

from pipecut.compiler.graph import Graph
from pipecut.compiler.profile.inputs import random_inputs
from pipecut.compiler.profile.layers import layers_of
from pipecut.compiler.profile.operators import time_operator
from pipecut.compiler.profile.runner import Runner
from tests.compiler.chain_graphs import chain, made_operator, made_value

CPU = torch.device("cpu")


def batch() -> dict[str, torch.Tensor]:
    return {"features": torch.randn(2, 4)}


@pytest.fixture(autouse=True)
def few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three runs are enough here: seconds are no matter of these tests."""
    monkeypatch.setattr(
        "pipecut.compiler.profile.runner.enough", lambda totals, *_: len(totals) >= 3
    )
    monkeypatch.setattr(
        "pipecut.compiler.profile.timing.enough", lambda totals, *_: len(totals) >= 3
    )


def test_every_layer_is_timed_and_the_last_one_makes_the_loss() -> None:
    graph = chain(3)
    runner = Runner(graph, batch(), CPU)
    timed = runner.run(layers_of(graph), timed=True)
    assert [layer is not None and layer.runs for layer in timed] == [3, 3, 3]
    assert torch.isfinite(runner.values["loss"])


def test_a_chain_goes_on_where_the_one_before_ended() -> None:
    graph = chain(3)
    runner = Runner(graph, batch(), CPU)
    first, *rest = layers_of(graph)
    assert runner.run([first], timed=False) == [None]
    assert "linear_0" in runner.values and "loss" not in runner.values
    runner.run(rest, timed=False)
    # What no later layer uses is dropped.
    assert set(runner.values) == {"x", "loss"}


def writing() -> Graph:
    """A chain whose second layer writes to the first one's result."""
    graph = chain(2)
    first, _, loss = graph.operators
    write = made_operator(
        "write", "aten.add_.Tensor", "linear_0", "linear_0", module="layers.1", writes=("linear_0",)
    )
    last = replace(loss, args=write.args[:1], inputs=("linear_0",))
    values = graph.values | {"write": made_value("write")}
    return replace(graph, operators=(first, write, last), values=values)


def test_an_input_that_is_written_to_is_copied_first() -> None:
    graph = writing()
    runner = Runner(graph, batch(), CPU)
    runner.run(layers_of(graph)[:1], timed=False)
    before = runner.values["linear_0"].clone()
    runner.run(layers_of(graph)[1:], timed=False)
    assert torch.equal(runner.values.get("linear_0", before), before)


def test_an_operator_is_timed_by_itself() -> None:
    graph = chain(1)
    timed = time_operator(graph.operators[0], graph, 2, CPU)
    assert timed is not None and timed.forward > 0 and timed.backward > 0


@pytest.mark.parametrize(
    "operator",
    [
        made_operator("part", "getitem", "x"),
        made_operator("unknown", "aten.relu.default", "nowhere"),
        made_operator("wrong", "aten.mm.default", "x", "x"),
    ],
)
def test_what_cannot_run_by_itself_has_no_seconds(operator: object) -> None:
    assert time_operator(operator, chain(1), 2, CPU) is None  # type: ignore[arg-type]


def test_random_inputs_have_the_graphs_sizes_and_gradients() -> None:
    graph = chain(1)
    tensors = random_inputs(graph.operators[0], graph, CPU, seed=0)
    assert tensors["x"].shape == (2, 4) and not tensors["x"].requires_grad
    assert tensors["weight_0"].requires_grad and tensors["weight_0"].is_leaf
    again = random_inputs(graph.operators[0], graph, CPU, seed=0)
    assert torch.equal(tensors["x"], again["x"])


def test_indices_stay_within_what_they_index() -> None:
    graph = chain(1)
    indices = replace(made_value("ids", needs_grad=False), dtype="int64")
    table = made_value("table", shape=(3, 4))
    embedding = made_operator("embedded", "aten.embedding.default", "table", "ids")
    graph = replace(graph, values=graph.values | {"ids": indices, "table": table})
    ids = random_inputs(embedding, graph, CPU, seed=1)["ids"]
    assert ids.dtype == torch.int64 and 0 <= int(ids.min()) and int(ids.max()) < 3


def test_a_repeated_dimension_repeats_its_numbers() -> None:
    value = replace(made_value("x"), strides=(0, 1))
    graph = replace(chain(1), values={"x": value})
    x = random_inputs(made_operator("y", "aten.relu.default", "x"), graph, CPU, seed=0)["x"]
    assert x.stride() == (0, 1) and torch.equal(x[0], x[1])
