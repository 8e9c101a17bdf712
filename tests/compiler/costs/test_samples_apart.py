"""Samples that a graph keeps apart up to its loss are known; whatever mixes them is named."""

from dataclasses import replace
from typing import Any

import pytest

from pipecut.compiler.costs.samples_apart import why_not_apart
from pipecut.compiler.graph import BatchInput, Graph, Operator, Ref
from tests.compiler.graphs import graph, operator, value

VALUES = (
    value("x", "batch", 6, 4),
    value("y", "batch", 6, 4),
    value("flat", "6*batch", 4),
    value("turned", 6, "batch", 4),
    value("pooled", "batch", 6),
    value("total"),
    value("loss", needs_grad=True),
)
INPUTS = (BatchInput("x", "x"),)


def why(*operators: Operator, reduction: str = "samples", **fields: Any) -> str:
    made: Graph = graph(list(operators), VALUES)
    return why_not_apart(
        replace(made, **{"batch_inputs": INPUTS, "loss": "loss", **fields}), reduction
    )


def op(name: str, target: str, *args: Any) -> Operator:
    return operator(name, f"aten.{target}", *args)


X, Y = Ref("x"), Ref("y")
MEAN = op("loss", "mean.default", Y)


@pytest.mark.parametrize(
    "path",
    [
        [op("y", "gelu.default", X), MEAN],
        [op("y", "softmax.int", X, -1), MEAN],
        [op("flat", "view.default", X, (-1, 4)), op("loss", "mean.default", Ref("flat"))],
        [
            op("turned", "transpose.int", X, 0, 1),
            op("y", "transpose.int", Ref("turned"), 0, 1),
            MEAN,
        ],
        [op("y", "slice.Tensor", X, 0, 0, 2**63 - 1), MEAN],
    ],
)
def test_samples_are_kept_apart(path: list[Operator]) -> None:
    assert why(*path) == ""


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ([op("y", "roll.default", X, (1,), (0,)), MEAN], "it mixes samples .roll"),
        ([op("y", "softmax.int", X, 0), MEAN], "it mixes samples .softmax"),
        ([op("y", "batch_norm.default", X), MEAN], "not known to keep samples apart .batch_norm"),
        ([op("y", "slice.Tensor", X, 0, 1), MEAN], "it mixes samples"),
        ([op("loss", "max.default", X)], "no mean or sum that is known"),
        ([op("total", "sum.default", X), op("loss", "div.Tensor", Ref("total"), 2)], "mixes"),
        ([op("loss", "sum.default", X)], "the loss is a sum, and reduction is samples"),
        (
            [
                op("turned", "transpose.int", X, 0, 1),
                op("flat", "view.default", Ref("turned"), (-1, 4)),
                op("loss", "mean.default", Ref("flat")),
            ],
            "puts other values between samples",
        ),
    ],
)
def test_what_mixes_samples_is_named(path: list[Operator], message: str) -> None:
    assert message.replace(" .", " (") in why(*path)


def test_padding_changes_a_mean_over_places() -> None:
    longer = {
        "x": replace(value("x", "batch", 6, 4), shape=("batch", "length", 4)),
        "loss": value("loss"),
    }
    path = op("loss", "mean.default", X)
    assert "a mean over places" in why(path, values=longer, lengths={"length": 6})
