"""Only values that the loss's gradient comes to need one: others have None in the model, too."""

from dataclasses import replace

import torch

from pipecut.compiler.graph import Graph, Ref
from pipecut.compiler.stages.build import build
from pipecut.compiler.stages.cut import cut
from pipecut.compiler.trace.gradient_ends import with_gradient_ends
from tests.compiler.chain_graphs import chain, made_operator, made_parameter, made_value


def beside(target: str, **fields: object) -> Graph:
    """A chain of two layers, and a layer beside whose result goes into the sum by an operator."""
    graph = chain(2)
    loss = graph.operators[-1]
    aside = [
        made_operator("aside", "aten.linear.default", "x", "aside_weight", module="aside"),
        made_operator("changed", target, "aside", module="aside", **fields),
        made_operator("added", "aten.add.Tensor", *loss.inputs, "changed", module="aside"),
    ]
    values = [made_value(operator.name) for operator in aside]
    values += [made_value("aside_weight", shape=(4, 4))]
    loss = replace(loss, args=(Ref("added"), *loss.args[1:]), inputs=("added",))
    parameter = made_parameter("aside_weight", "aside.weight")
    graph = replace(
        graph,
        operators=(*graph.operators[:-1], *aside, loss),
        values={**graph.values, **{value.name: value for value in values}},
        parameters=(*graph.parameters, parameter),
    )
    return replace(graph, values=with_gradient_ends(graph.values, graph.operators, graph.loss))


def ended(graph: Graph) -> list[str]:
    return [value.name for value in graph.values.values() if value.gradient_ends]


def test_a_gradient_comes_to_all_that_the_loss_is_made_of() -> None:
    assert ended(beside("aten.tanh.default")) == []


def test_none_comes_through_an_operator_that_gives_none() -> None:
    assert ended(beside("aten.detach.default")) == ["aside", "aside_weight"]
    assert ended(beside("aten.zeros_like.default")) == ["aside", "aside_weight"]
    no_grad = ("torch.set_grad_enabled(False)",)
    assert ended(beside("aten.tanh.default", contexts=no_grad)) == ["aside", "aside_weight"]
    assert ended(beside("own:Function.apply", gives_none=("aside",))) == ["aside", "aside_weight"]


def test_what_is_written_gets_one_under_any_name() -> None:
    graph = beside("aten.mul_.Tensor", writes=("aside",), aliases=("aside",))
    assert ended(graph) == []


def test_a_stage_detaches_what_it_sends_without_a_gradient() -> None:
    graph = beside("aten.detach.default")
    placed = [(0 if o.name in ("linear_0", "aside") else 1,) for o in graph.operators]
    cuts = cut(graph, placed, 2)
    assert cuts[0].sends == ("linear_0", "aside")
    assert [graph.values[name].needs_grad for name in cuts[0].sends] == [True, False]
    stages = [build(graph, c, 2, torch.device("cpu"), {}) for c in cuts]
    for parameter in (p for stage in stages for p in stage.parameters()):
        torch.nn.init.ones_(parameter)
    first, aside = stages[0](torch.ones(2, 4))
    assert first.requires_grad and not aside.requires_grad
    stages[1](first, aside)[0].backward()
    gradients = {name: p.grad for stage in stages for name, p in stage.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == ["aside.weight"]
