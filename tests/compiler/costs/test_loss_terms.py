"""Which labels a loss counts is read off the graph, or refused."""

from dataclasses import replace
from typing import Any

import pytest

from pipecut.compiler.costs.loss_terms import sum_over_samples, terms_of
from pipecut.compiler.graph import BatchInput, Graph, Operator, Ref
from pipecut.errors import TraceError
from pipecut.plan.schema import Terms
from tests.compiler.graphs import graph, operator, value

LABELS = BatchInput("labels", "targets")
VALUES = (
    value("logits", "6*batch", 9, needs_grad=True),
    value("labels", "batch", 6, dtype="int64"),
    value("other", "batch", 6, dtype="int64"),
    value("loss", needs_grad=True),
)
FLAT = operator("flat", "aten.view.default", Ref("labels"), (-1,))
SHIFTED = operator("shifted", "aten.slice.Tensor", Ref("labels"), 1, 1)
FLAT_SHIFTED = operator("flat", "aten.reshape.default", Ref("shifted"), (-1,))


def with_loss(path: list[Operator], *args: Any, **kwargs: Any) -> Graph:
    target = Ref(path[-1].name if path else "labels")
    loss = operator(
        "loss", "aten.cross_entropy_loss.default", Ref("logits"), target, *args, kwargs=kwargs
    )
    return replace(graph([*path, loss], VALUES), batch_inputs=(LABELS,))


@pytest.mark.parametrize(
    ("path", "args", "terms"),
    [
        ([FLAT], (), Terms(input="targets", ignored=-100, skipped=0)),
        ([], (None, 1, 0), Terms(input="targets", ignored=0, skipped=0)),
        ([SHIFTED, FLAT_SHIFTED], (None, 1, -1), Terms(input="targets", ignored=-1, skipped=1)),
    ],
)
def test_labels_that_count_are_found(path: list[Operator], args: Any, terms: Terms) -> None:
    assert terms_of(with_loss(path, *args), 2) == terms


def test_the_ignored_label_may_be_a_keyword() -> None:
    assert terms_of(with_loss([FLAT], ignore_index=7), 2).ignored == 7


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (with_loss([FLAT], Ref("logits")), "no plain cross entropy"),
        (graph([operator("loss", "aten.mse_loss.default", Ref("logits"))], VALUES), "no plain"),
        (with_loss([FLAT], None, 2), "no mean"),
        (
            with_loss([operator("flat", "aten.add.Tensor", Ref("labels"), Ref("other"))]),
            "labels, o",
        ),
        (
            replace(with_loss([FLAT]), batch_inputs=(replace(LABELS, whole=True),)),
            "every microbatch has all of the labels 'labels'",
        ),
        (
            with_loss([operator("flat", "aten.slice.Tensor", Ref("labels"), 1, 3)]),
            "not clear which labels",
        ),
    ],
)
def test_a_loss_whose_terms_are_not_known_is_refused(refused: Graph, message: str) -> None:
    with pytest.raises(TraceError, match=f"reduction: tokens: .*{message}.*weight microbatches"):
        terms_of(refused, 2)


@pytest.mark.parametrize(
    ("loss", "summed"),
    [
        (("aten.sum.default", Ref("logits")), True),
        (("aten.mse_loss.default", Ref("logits"), Ref("logits"), 2), True),
        (("aten.mse_loss.default", Ref("logits"), Ref("logits")), False),
        (("aten.mean.default", Ref("logits")), False),
        # Of a batch's losses one by one, such as two tasks'.
        (("aten.sum.default", Ref("tasks")), False),
    ],
)
def test_a_loss_that_adds_up_samples_is_known(loss: tuple[Any, ...], summed: bool) -> None:
    tasks = value("tasks", 2, needs_grad=True)
    made = graph([operator("loss", *loss)], (*VALUES, tasks))
    assert (sum_over_samples(made) is not None) == summed
    assert sum_over_samples(with_loss([FLAT], None, 2)) is not None
    assert sum_over_samples(with_loss([FLAT])) is None
