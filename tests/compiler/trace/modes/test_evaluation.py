"""The graph of eval mode is merged into training's where its operators do, else kept beside it."""

from dataclasses import replace

import torch

from pipecut.compiler.graph import Buffer, Graph, Operator, Output, Ref
from pipecut.compiler.trace.modes.evaluation import (
    only_dropout_differs,
    with_evaluation,
    without_dropout,
)
from tests.compiler.graphs import graph, operator, value

TENSORS = [value(name, "batch", 4, needs_grad=True) for name in ("h", "d", "y")]
VALUES = [value("x", "batch", 4), value("w", 4, 4, needs_grad=True), *TENSORS, value("loss")]
LINEAR = operator("h", "aten.linear.default", Ref("x"), Ref("w"))
DROPOUT = operator("d", "aten.dropout.default", Ref("h"), 0.5, True, draws=(0,))
TANH = operator("y", "aten.tanh.default", Ref("d"))
LOSS = operator("loss", "aten.sum.default", Ref("y"))


def model(*operators: Operator, **fields: object) -> Graph:
    return graph(operators, VALUES, ("w",), ("x",), **fields)


TRAINING = model(LINEAR, DROPOUT, TANH, LOSS)


def renamed(given: Graph, prefix: str) -> Graph:
    """The graph as another trace has it: equal, under other names."""
    name_of = {name: prefix + name for name in given.values}

    def call(o: Operator) -> Operator:
        args = tuple(Ref(name_of[a.name]) if isinstance(a, Ref) else a for a in o.args)
        return operator(name_of[o.name], o.target, *args, draws=o.draws)

    return replace(
        given,
        operators=tuple(map(call, given.operators)),
        values={name_of[n]: replace(v, name=name_of[n]) for n, v in given.values.items()},
        parameters=tuple(replace(p, value=name_of[p.value]) for p in given.parameters),
        batch_inputs=tuple(replace(b, value=name_of[b.value]) for b in given.batch_inputs),
        loss=name_of[given.loss],
        outputs=tuple(replace(o, value=name_of[o.value]) for o in given.outputs),
    )


def test_dropout_that_is_off_is_written_once_with_both_flags() -> None:
    evaluation = renamed(without_dropout(TRAINING), "e_")
    both = with_evaluation(TRAINING, evaluation)
    assert both.evaluation is None
    assert [o.modes for o in both.operators] == [(), ((2, False),), (), ()]
    assert both.operators[1].draws == (0,)


def test_another_operator_in_eval_mode_keeps_a_graph_of_its_own() -> None:
    relu = operator("y", "aten.relu.default", Ref("d"))
    both = with_evaluation(TRAINING, renamed(model(LINEAR, DROPOUT, relu, LOSS), "e_"))
    assert both.operators == TRAINING.operators
    assert both.evaluation is not None
    # What both have goes by training's names.
    names = [o.name for o in both.evaluation.operators]
    assert names[:2] == ["h", "d"] and names[2] == "e_y"
    assert both.evaluation.operators[0].inputs == ("x", "w")
    assert both.evaluation.operators[3].inputs == ("e_y",)


def test_an_operator_that_eval_mode_leaves_out_is_no_reason_for_another_graph() -> None:
    extra = operator("extra", "aten.neg.default", Ref("h"))
    both = with_evaluation(
        model(LINEAR, extra, DROPOUT, TANH, LOSS), renamed(without_dropout(TRAINING), "e_")
    )
    assert both.evaluation is None


def test_what_training_writes_and_eval_mode_reads_needs_another_graph() -> None:
    count = operator("c", "aten.add_.Tensor", Ref("x"), 1, writes=("x",), aliases=("x",))
    both = with_evaluation(
        model(count, LINEAR, DROPOUT, TANH, LOSS), renamed(without_dropout(TRAINING), "e_")
    )
    assert both.evaluation is not None
    assert [o.name for o in both.evaluation.operators] == ["h", "d", "y", "loss"]


def test_outputs_are_those_of_eval_mode_under_trainings_names() -> None:
    evaluation = replace(
        renamed(without_dropout(TRAINING), "e_"),
        outputs=(Output("scores", "e_y"),),
        left_out={"kind": "no tensor"},
    )
    both = with_evaluation(TRAINING, evaluation)
    assert both.outputs == (Output("scores", "y"),) and both.left_out == {"kind": "no tensor"}


def test_a_constant_of_another_value_gets_a_name_of_its_own() -> None:
    def with_constant(name: str, data: float) -> Graph:
        add = operator("y", "aten.add.Tensor", Ref("d"), Ref(name))
        made = graph([LINEAR, DROPOUT, add, LOSS], [*VALUES, value(name)], ("w",), ("x",))
        return replace(made, buffers=(Buffer(name, ("c",), False, torch.tensor(data)),))

    same = with_evaluation(with_constant("c", 1.0), with_constant("k", 1.0))
    assert same.evaluation is None
    other = with_evaluation(with_constant("c", 1.0), with_constant("k", 2.0))
    assert other.evaluation is not None
    assert [b.names for b in other.evaluation.buffers] == [("c",), ("c_in_evaluation",)]


def test_flags_are_all_that_differs_where_dropouts_are_counted() -> None:
    assert only_dropout_differs(TRAINING.operators, dropouts=1)
    assert not only_dropout_differs(TRAINING.operators, dropouts=2)
    noise = operator("n", "aten.rand_like.default", Ref("h"), draws=(1,))
    assert not only_dropout_differs((*TRAINING.operators, noise), dropouts=1)
    norm = operator("n", "aten.batch_norm.default", Ref("h"))
    assert not only_dropout_differs((*TRAINING.operators, norm), dropouts=1)


def test_without_dropout_nothing_is_drawn() -> None:
    assert [o.draws for o in without_dropout(TRAINING).operators] == [()] * 4
    assert without_dropout(TRAINING).operators[1].args == (Ref("h"), 0.5, False)
