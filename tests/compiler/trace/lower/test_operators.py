"""Nodes of hand-made fx graphs become operators with their values, writes and gradients."""

import operator as python_operator
from typing import Any

import pytest
import torch
from torch import fx, nn

from pipecut.compiler.graph import Literal, ModuleCall, Operator, Ref
from pipecut.compiler.trace.lower.dimensions import Dimensions
from pipecut.compiler.trace.lower.names import Names
from pipecut.compiler.trace.lower.operators import OperatorReader
from pipecut.compiler.trace.lower.values import Values
from pipecut.errors import TraceError

ATEN = torch.ops.aten


class Program:
    """An fx graph that is written call by call; `x` needs a gradient where asked for."""

    def __init__(self, needs_grad: bool = False) -> None:
        self.graph = fx.Graph()
        self.x = self.input("x")
        self.values = Values(Dimensions(2, dynamic=True), {})
        self.values.add("x", self.x.meta["val"], needs_grad)

    def input(self, name: str) -> fx.Node:
        node = self.graph.placeholder(name)
        node.meta["val"] = torch.zeros(2, 3)
        return node

    def call(self, function: Any, *args: Any, **meta: Any) -> fx.Node:
        """A call, whose result is computed: so storages are shared as they are."""
        node = self.graph.call_function(function, args)
        values = fx.node.map_arg(args, lambda n: n.meta["val"])
        node.meta = {"val": function(*values), **meta}
        return node

    def read(self, **submodules: nn.Module) -> list[Operator]:
        self.graph.output(())
        root = nn.Module()
        for name, module in submodules.items():
            root.add_module(name, module)
        reader = OperatorReader(self.values, Names({n.name for n in self.graph.nodes}))
        reader.read(fx.GraphModule(root, self.graph))
        return reader.operators


def test_a_call_has_its_module_and_line() -> None:
    program = Program()
    program.call(
        ATEN.relu.default,
        program.x,
        nn_module_stack={"a": ("model.layers.0", "torch.nn.modules.activation.ReLU")},
        stack_trace='  File "/home/me/model.py", line 7, in forward\n    relu(x)\n',
    )
    (relu,) = program.read()
    assert (relu.name, relu.target, relu.args, relu.inputs) == (
        "relu_default",
        "aten.relu.default",
        (Ref("x"),),
        ("x",),
    )
    assert (relu.module, relu.module_class) == ("layers.0", "ReLU")
    assert relu.source == " (model.py:7)"


def test_a_call_has_the_modules_around_it_with_their_statements() -> None:
    program = Program()
    program.call(
        ATEN.relu.default,
        program.x,
        nn_module_stack={
            "": ("", "pipecut.model.unsplit.WithLoss"),
            "model": ("model", "model.Net"),
            "model.act@1": ("model.act", "torch.nn.modules.activation.ReLU"),
        },
        stack_trace=(
            '  File "/unsplit.py", line 57, in forward\n    output = self.model(**batch)\n'
            '  File "/model.py", line 7, in forward\n    x, y = self.act(x), x == 1\n'
            '  File "/activation.py", line 9, in forward\n    return F.relu(input)\n'
        ),
    )
    program.call(ATEN.neg.default, program.x)
    relu, negative = program.read()
    assert relu.calls == (
        ModuleCall("", "Net", 0, 7, ("x", "y")),
        ModuleCall("act", "ReLU", 1, 9, (), ("input",)),
    )
    assert negative.calls == (ModuleCall("", ""),)


def test_a_views_result_aliases_and_a_copy_does_not() -> None:
    program = Program()
    program.call(ATEN.view.default, program.x, [6])
    program.call(ATEN.neg.default, program.x)
    # Its schema names no alias, but the traced result shares the storage.
    program.call(ATEN.meshgrid.default, [program.call(ATEN.flatten.using_ints, program.x)])
    view, negative, flat, mesh = program.read()
    assert view.aliases == flat.aliases == ("x",)
    assert negative.aliases == () and mesh.aliases == (flat.name,)


def test_a_write_marks_what_it_writes_and_all_its_views_for_gradients() -> None:
    program = Program()
    zeros = program.call(ATEN.neg.default, program.x)
    program.values.add("w", torch.zeros(2, 3), needs_grad=True)
    weight = program.input("w")
    row = program.call(ATEN.select.int, zeros, 0, 0)
    other_row = program.call(ATEN.select.int, zeros, 0, 1)
    added = program.call(ATEN.add_.Tensor, row, program.call(ATEN.sum.default, weight))
    operators = program.read()
    assert operators[-1].writes == (row.name,)
    for node in (zeros, row, other_row, added):
        assert program.values.by_name[node.name].needs_grad, node.name


def test_detach_and_integers_stop_gradients() -> None:
    program = Program(needs_grad=True)
    doubled = program.call(ATEN.mul.Tensor, program.x, 2)
    detached = program.call(ATEN.detach.default, doubled)
    largest = program.call(ATEN.argmax.default, doubled)
    program.read()
    needs_grad = [program.values.by_name[n.name].needs_grad for n in (doubled, detached, largest)]
    assert needs_grad == [True, False, False]


def test_running_statistics_are_written_in_training_only() -> None:
    for training in (True, False):
        program = Program()
        running = [program.input(name) for name in ("mean", "variance")]
        for node in running:
            node.meta["val"] = torch.zeros(3)
        statistics = (*running, training, 0.1, 1e-5, False)
        program.call(ATEN.batch_norm.default, program.x, None, None, *statistics)
        (norm,) = program.read()
        assert norm.writes == (("mean", "variance") if training else ())


def test_parts_of_a_result_are_values() -> None:
    program = Program(needs_grad=True)
    pair = program.call(ATEN.split.Tensor, program.x, 1)
    program.call(python_operator.getitem, pair, 1)
    split, part = program.read()
    assert part.target == "getitem" and part.inputs == (split.name,)
    assert {f"{split.name}[0]", f"{split.name}[1]", part.name} <= program.values.by_name.keys()
    assert part.aliases == ("x", split.name)
    assert program.values.by_name[part.name].needs_grad


def test_draws_are_numbered_in_program_order() -> None:
    program = Program()
    program.call(ATEN.dropout.default, program.x, 0.5, True)
    program.call(ATEN.relu.default, program.x)
    program.call(ATEN.rand_like.default, program.x)
    assert [operator.draws for operator in program.read()] == [(0,), (), (1,)]


def test_checks_and_numbers_are_no_operators() -> None:
    program = Program()
    total = program.call(ATEN.sum.default, program.x)
    program.call(ATEN._assert_async.msg, program.call(ATEN.eq.Scalar, total, 0), "not zero")
    size = program.graph.call_function(ATEN.sym_size.int, (program.x, 0))
    size.meta["val"] = 2
    assert [operator.target for operator in program.read()] == [
        "aten.sum.default",
        "aten.eq.Scalar",
    ]


def test_devices_and_dtypes_are_written_as_code() -> None:
    program = Program()
    node = program.graph.call_function(
        ATEN.zeros.default,
        ([2],),
        {"dtype": torch.bool, "device": torch.device("cpu"), "pin_memory": False},
    )
    node.meta["val"] = torch.zeros(2, dtype=torch.bool)
    (zeros,) = program.read()
    assert dict(zeros.kwargs) == {"dtype": Literal("torch.bool"), "device": Literal("device")}


def test_a_body_under_no_grad_stands_in_its_place() -> None:
    body = Program()
    body.graph.output((body.call(ATEN.neg.default, body.x),))
    program = Program(needs_grad=True)
    wrap = program.graph.call_function(wrap_with_set_grad_enabled, (False, None, program.x))
    inner = program.graph.get_attr("body")
    wrap.args = (False, inner, program.x)
    wrap.prepend(inner)
    result = program.graph.call_function(python_operator.getitem, (wrap, 0))
    result.meta["val"] = torch.zeros(2, 3)
    after = program.call(ATEN.relu.default, program.x)
    after.args = (result,)
    negative, relu = program.read(body=fx.GraphModule(nn.Module(), body.graph))
    assert negative.contexts == ("torch.set_grad_enabled(False)",)
    assert relu.args == (Ref(negative.name),) and relu.contexts == ()
    assert not program.values.by_name[negative.name].needs_grad


def wrap_with_set_grad_enabled(*args: Any) -> Any:
    """Stands for torch's higher-order operator, which is told by its name."""


def test_another_call_is_refused_by_name() -> None:
    program = Program()
    program.call(torch.neg, program.x)
    with pytest.raises(TraceError, match="neg.*cannot write as code"):
        program.read()
