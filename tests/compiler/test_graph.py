"""A graph prints as text, and answers what its operators depend on."""

import torch

from pipecut.compiler.graph import BatchInput, Buffer, Graph, Literal, Output, Parameter, Ref, Sym
from tests.compiler.graphs import operator, value

LINEAR = operator("linear", "aten.linear.default", Ref("x"), Ref("w"))
VIEW = operator(
    "view", "aten.view.default", Ref("linear"), (Sym("2*batch"), 4), aliases=("linear",)
)
DROPOUT = operator(
    "dropout", "aten.dropout.default", Ref("view"), 0.5, True, draws=(0,), modes=((2, False),)
)
COUNT = operator(
    "count", "aten.add_.Tensor", Ref("total"), 1, writes=("total",), aliases=("total",)
)
LOSS = operator("loss", "aten.mean.default", Ref("dropout"))


def graph() -> Graph:
    values = (
        value("x", "batch", 8),
        value("w", 8, 8),
        value("total", dtype="int64"),
        value("linear", "batch", 8, needs_grad=True),
        value("view", "batch", 4, needs_grad=True),
        value("dropout", "batch", 4, needs_grad=True),
        value("count", dtype="int64"),
        value("loss", needs_grad=True),
    )
    return Graph(
        (LINEAR, VIEW, DROPOUT, COUNT, LOSS),
        values={v.name: v for v in values},
        parameters=(Parameter("w", ("layer.weight", "head.weight"), (8, 8), "float32", 256, True),),
        buffers=(Buffer("total", ("total",), True, torch.tensor(0)),),
        batch_inputs=(BatchInput("x", "features"),),
        loss="loss",
        dynamic=True,
        outputs=(Output("logits", "view"),),
        left_out={"kind": "it is 'a' whatever the batch, no tensor"},
        notes=("a note",),
    )


TEXT = """\
graph of 5 operators for any batch size, loss loss

input  tensor             name
x      float32[batch, 8]  batch input features
w      float32[8, 8]      parameter layer.weight = head.weight
total  int64[]            buffer total

result   tensor                  module       call
linear   float32[batch, 8] grad  layer Layer  aten.linear.default(x, w)
view     float32[batch, 4] grad  layer Layer  aten.view.default(linear, [2*batch, 4])
dropout  float32[batch, 4] grad  layer Layer  aten.dropout.default(view, 0.5, True | False)  draws 0
count    int64[]                 layer Layer  aten.add_.Tensor(total, 1)  writes total
loss     float32[] grad          layer Layer  aten.mean.default(dropout)

returns logits: view

leaves out kind: it is 'a' whatever the batch, no tensor

note: a note"""


def test_a_graph_prints_its_inputs_and_operators() -> None:
    assert str(graph()) == TEXT


def test_a_call_prints_dtypes_and_the_statements_it_runs_under() -> None:
    call = operator(
        "zeros", "aten.zeros.default", (2, 3), Literal("torch.bool"), contexts=("torch.no_grad()",)
    )
    assert str(call) == "aten.zeros.default([2, 3], torch.bool)  torch.no_grad()"


def test_an_edge_leads_from_each_result_to_its_users() -> None:
    assert set(graph().dependencies().edges) == {(0, 1), (1, 2), (2, 4)}


def test_a_view_of_a_view_has_the_first_ones_storage() -> None:
    again = operator("twice", "aten.view.default", Ref("view"), (8,), aliases=("view",))
    whole = Graph((LINEAR, VIEW, again), {}, (), (), (), "", True)
    assert whole.roots() == {"view": "linear", "twice": "linear"}


def test_batch_names_are_the_users() -> None:
    assert graph().batch_names() == {"x": "features"}
