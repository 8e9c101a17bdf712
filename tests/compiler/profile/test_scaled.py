"""Seconds of operators are scaled so that layers take what they take whole."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipecut.compiler.graph import OpaqueCall, OpaqueWork
from pipecut.compiler.profile.layers import Layer, chains_of, held_bytes, layers_of
from pipecut.compiler.profile.operators import operator_key
from pipecut.compiler.profile.profile import median_of
from pipecut.compiler.profile.scaled import (
    MeasuredLayer,
    layer_key,
    measured_seconds,
    overstated,
    scaled_seconds,
)
from pipecut.compiler.profile.store import Store
from pipecut.compiler.profile.timing import PassSeconds, Timed
from tests.compiler.chain_graphs import chain, made_operator

# The first layer differs from the second, since its input needs no gradient.
GRAPH = chain(3)
FIRST, LINEAR, _, SUM = GRAPH.operators
MICROBATCH = 2


def timed(forward: float, backward: float = 0.0) -> Timed:
    return Timed(forward, backward, 0.0, 6)


def key(operator: object) -> str:
    return operator_key(operator, GRAPH, MICROBATCH)  # type: ignore[arg-type]


LINEAR_LAYER = layer_key([key(LINEAR)])
LAST_LAYER = layer_key([key(LINEAR), key(SUM)])


def test_layers_are_the_numbered_modules_and_what_follows_them() -> None:
    assert layers_of(chain(2)) == [Layer("layers.0", (0,)), Layer("layers.1", (1, 2))]


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        (["h.0.mlp.up", "h.0.attn", "h.1.mlp"], ["h.0", "h.1"]),
        (["embed", "norm.inner", ""], ["embed", "norm"]),
        (["", "h.0"], ["", "h.0"]),
        (["h.0", "embed", "h.0"], ["h.0", "embed", "h.0"]),
    ],
)
def test_a_layer_is_a_run_of_operators_of_one_module(
    modules: list[str], expected: list[str]
) -> None:
    operators = tuple(
        made_operator(f"o{n}", "aten.relu.default", module=module)
        for n, module in enumerate(modules)
    )
    layers = layers_of(replace(GRAPH, operators=operators))
    assert [layer.module for layer in layers] == expected
    assert [i for layer in layers for i in layer.operators] == list(range(len(modules)))


def test_a_module_that_runs_as_it_is_has_its_layer_and_all_of_its_seconds() -> None:
    work = OpaqueWork(2, 0.0, 0.0, (), 0)
    call = OpaqueCall("h.0.moe", "{0}", (), "tensors", (True,), False, (work, work))
    operators = (
        made_operator("norm", "aten.relu.default", module="h.0.norm"),
        made_operator("moe", "pipecut.opaque.tensors", module="h.0.moe", opaque=call),
        made_operator("part", "getitem", module="h.0.moe"),
        made_operator("sum", "aten.relu.default", module=""),
    )
    layers = layers_of(replace(GRAPH, operators=operators))
    assert layers == [Layer("h.0", (0,)), Layer("h.0.moe", (1, 2)), Layer("", (3,))]
    whole = MeasuredLayer(layers[1], timed(3.0, 5.0), (None, None))
    assert whole.scaled() == [PassSeconds(3.0, 5.0), PassSeconds(0.0, 0.0)]


def test_chains_hold_what_fits_into_a_part_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = layers_of(chain(4))
    # A result of 32 bytes, a weight of 64 and its gradient.
    assert held_bytes(chain(4), layers[0]) == 32 + 128
    monkeypatch.setattr("pipecut.compiler.profile.layers.free_bytes", lambda _: 4 * 330)
    chains = list(chains_of(chain(4), layers, torch.device("cpu")))
    assert [len(one) for one in chains] == [2, 2] and sum(chains, []) == layers


def test_operators_share_the_layers_seconds_in_proportion() -> None:
    measured = MeasuredLayer(Layer("l", (0, 1, 2)), timed(6, 8), (timed(1, 2), None, timed(3, 2)))
    assert measured.scaled() == [PassSeconds(1.5, 4), PassSeconds(0, 0), PassSeconds(4.5, 4)]
    assert sum(s.forward for s in measured.scaled()) == 6


def test_a_layer_that_cannot_run_keeps_its_operators_seconds() -> None:
    measured = MeasuredLayer(Layer("l", (0, 1)), None, (timed(1, 2), None))
    assert measured.measured and measured.scaled()[0] == PassSeconds(1, 2)
    assert not MeasuredLayer(Layer("l", (0,)), None, (None,)).measured


def test_every_operator_has_seconds_or_the_graph_has_none() -> None:
    known = {key(FIRST): timed(5, 0), key(LINEAR): timed(1, 1), key(SUM): timed(1, 0)}
    known[LINEAR_LAYER] = timed(2, 4)
    assert scaled_seconds(GRAPH, MICROBATCH, known) == [(5, 0), (2, 4), (1, 1), (1, 0)]
    assert scaled_seconds(GRAPH, MICROBATCH, {key(SUM): timed(1)}) is None


def test_the_sum_of_operators_is_compared_with_whole_layers() -> None:
    known = {key(LINEAR): timed(2, 1), key(SUM): timed(1, 0), LAST_LAYER: timed(1, 1)}
    assert overstated(GRAPH, MICROBATCH, known) == pytest.approx(4 / 2 - 1)
    assert overstated(GRAPH, MICROBATCH, {}) == 0.0


def test_equal_layers_have_one_key() -> None:
    assert key(GRAPH.operators[1]) == key(GRAPH.operators[2]) != key(FIRST)
    assert LINEAR_LAYER != LAST_LAYER


def test_kinds_that_were_not_measured_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "profile.sqlite"
    for name in (key(FIRST), key(LINEAR), key(SUM)):
        Store(path, "core").write(name, "", timed(1, 1), 1.0)
    seconds = measured_seconds(GRAPH, MICROBATCH, ["core", "gpu"], path)
    assert set(seconds) == {"core"} and len(seconds["core"]) == 4


def test_equal_layers_are_kept_as_their_median() -> None:
    assert median_of([timed(1, 4), timed(3, 2), timed(2, 3)]) == Timed(2, 3, 0.0, 18)
