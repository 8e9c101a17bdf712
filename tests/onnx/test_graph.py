"""Names, sizes and modules of a graph, from graphs made by hand."""

from dataclasses import replace

import onnx_ir as ir
import pytest

from pipecut.errors import PlanError
from pipecut.onnx.graph import finish, inputs_of
from pipecut.onnx.modules import CLASSES, MODULE, NAMESPACE, OPERATOR, SCOPES, TRACE, Modules
from pipecut.onnx.program import StageCall, call_of
from pipecut.plan.schema import Boundary, StageTensor
from tests.plans import made_plan, made_stage, made_tensor

FLOAT = ir.TensorType(ir.DataType.FLOAT)


def value(name: str, *shape: int | str) -> ir.Value:
    return ir.Value(name=name, type=FLOAT, shape=ir.Shape(shape))


def chain(*operators: str, rows: int | str = "s3") -> ir.Model:
    """A graph of unary operators from `a_0`; it has an input that nothing uses, and a weight."""
    given, unused, weight = value("a_0", rows, 4), value("a_1", rows, 4), value("w", 4, 4)
    last, nodes = given, []
    for operator in operators:
        node = ir.Node("", operator, [last])
        last = node.outputs[0]
        last.name, last.type = "x", FLOAT
        last.shape = ir.Shape([f"2*{rows}" if isinstance(rows, str) else rows, 4])
        nodes.append(node)
    product = ir.Node("", "MatMul", [last, weight])
    product.outputs[0].name, product.outputs[0].shape = "y", ir.Shape([rows, 4])
    inputs = [given, unused, weight]
    graph = ir.Graph(inputs, product.outputs, nodes=[*nodes, product], opset_imports={"": 20})
    return ir.Model(graph, ir_version=10)


def call(**fields: object) -> StageCall:
    """Takes x and what stage 0 sent; gives `x`, a name that an input has, too."""
    weight = StageTensor(names=["w"], shape=[4, 4], dtype="float32", trainable=True)
    stage = made_stage(1, 2, parameters=[weight], outputs=[made_tensor("x")])
    takes = made_tensor("x"), made_tensor("hidden_0")
    return StageCall(stage, takes, (), (made_tensor("x"),))


def test_values_get_the_plans_names_and_each_name_once() -> None:
    model = chain("Relu", "Neg")
    finish(model, call(), Modules({}))
    relu, neg, product = model.graph
    assert [v.name for v in model.graph.inputs] == ["x", "w"]
    assert relu.inputs[0] is model.graph.inputs[0]
    names = [node.outputs[0].name for node in (relu, neg, product)]
    assert names[2] == "x_1" and len({*names, "x", "w"}) == 5


def test_constants_with_a_name_of_the_plan_get_another() -> None:
    model = chain("Relu")
    constants = [value("x", 4), value("hidden_0", 4)]
    for constant in constants:
        constant.const_value = ir.tensor([0.0] * 4, name=constant.name)
        model.graph.register_initializer(constant)
    finish(model, call(), Modules({}))
    assert list(model.graph.initializers) == ["x_2", "hidden_0_1"]


def test_sizes_that_follow_the_batch_are_called_so() -> None:
    model = chain("Relu")
    finish(model, call(), Modules({}))
    assert str(model.graph.inputs[0].shape) == "[batch,4]"
    assert str(model.graph[0].outputs[0].shape) == "[2*batch,4]"


def test_sizes_that_follow_an_expression_keep_it_whole() -> None:
    rows = made_tensor("x", shape=["2*batch + 1", 4])
    takes = replace(call(), takes=(rows, made_tensor("hidden_0")), outputs=(rows,))
    model = chain("Relu")
    finish(model, takes, Modules({}))
    assert str(model.graph[0].outputs[0].shape) == "[2*(2*batch + 1),4]"


def test_a_size_that_became_a_number_is_refused() -> None:
    with pytest.raises(PlanError, match="x would always have 6 in place of batch"):
        finish(chain("Relu", rows=6), call(), Modules({}))


def test_a_graph_that_draws_is_refused() -> None:
    with pytest.raises(PlanError, match="draws random numbers in eval mode .RandomNormalLike"):
        finish(chain("RandomNormalLike"), call(), Modules({}))


def test_weights_are_told_from_what_is_taken() -> None:
    model = chain("Relu")
    finish(model, call(), Modules({}))
    inputs = inputs_of(model, call())
    assert [v.name for v in inputs.taken] == ["x"] and [v.name for v in inputs.held] == ["w"]


def node_with(**props: str) -> ir.Node:
    node = ir.Node("", "Relu", [value("a", 4)])
    node.metadata_props.update(props)
    return node


def graph_with(node: ir.Node) -> ir.Graph:
    return ir.Graph([], node.outputs, nodes=[node])


def test_a_node_says_its_module_from_the_program() -> None:
    scopes = "['', 'stage', 'stage.layers.3', 'stage.layers.3.norm', 'layer_norm']"
    classes = "['W', 'Stage0', 'Block', 'LayerNorm', 'aten.layer_norm.default']"
    node = node_with(**{SCOPES: scopes, CLASSES: classes, TRACE: 'File "/home/me/x.py"'})
    Modules({}).write(graph_with(node))
    assert node.metadata_props == {
        MODULE: "layers.3.norm",
        NAMESPACE: "layers/3/norm",
        OPERATOR: "aten.layer_norm.default",
    }


def test_a_node_of_flat_code_says_its_module_from_the_line() -> None:
    trace = '  File "stages/stage_0.py", line 9, in forward\n    linear_2 = F.linear(x, self.w)'
    node = node_with(**{SCOPES: "['', 'stage', 'linear']", TRACE: trace})
    Modules({"linear_2": "layers.2"}).write(graph_with(node))
    assert node.metadata_props[MODULE] == "layers.2"


def test_a_node_that_the_optimizer_made_is_of_the_module_before_it() -> None:
    first = node_with()
    second = ir.Node("", "Neg", first.outputs)
    graph = ir.Graph([], second.outputs, nodes=[first, second])
    modules = Modules({})
    first.metadata_props[MODULE] = "layers.2"
    modules.write_missing(graph)
    assert modules.of(second) == "layers.2"


def test_what_is_passed_on_is_sent_by_its_maker_alone() -> None:
    skip = made_tensor("skip")
    boundaries = [
        Boundary(left=left, tensors=[skip, made_tensor(f"hidden_{left}")], bandwidth=1, latency=0)
        for left in range(2)
    ]
    plan = made_plan(3, boundaries=boundaries)
    needed = frozenset({"skip", "hidden_0", "hidden_1"})
    sent = [
        [tensor.name for tensor in call_of(plan, stage, needed, only_loss=True).gives]
        for stage in plan.stages
    ]
    assert sent == [["skip", "hidden_0"], ["hidden_1"], ["loss"]]
