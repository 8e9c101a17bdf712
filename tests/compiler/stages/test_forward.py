"""A stage's forward is plain torch that a person can read."""

from dataclasses import replace

import torch

from pipecut.compiler.graph import Graph, Literal, Output, Ref, Sym
from pipecut.compiler.stages.build import build
from pipecut.compiler.stages.cut import cut
from pipecut.compiler.stages.forward import write_forward
from pipecut.compiler.stages.source import write_stage
from tests.compiler.chain_graphs import chain, made_operator, made_value


def forward(graph: Graph, *stages: int, stage: int = 0) -> list[str]:
    """The lines of a stage's forward, without indent."""
    cuts = cut(graph, [(placed,) for placed in stages], max(stages) + 1)
    last = stage == len(cuts) - 1
    returned = (graph.loss,) if last else cuts[stage].sends
    lines = write_forward(graph, cuts[stage], returned, "forward")
    return [line.removeprefix("    ").removeprefix("    ") for line in lines if line]


def test_the_first_stage_takes_the_batch_by_the_users_names() -> None:
    assert forward(chain(3), 0, 0, 1, 1) == [
        "def forward(self, features):",
        "# layers.0 (Linear) (model.py:1)",
        "linear_0 = F.linear(features, self.layers[0].weight)",
        "del features",
        "# layers.1 (Linear) (model.py:1)",
        "linear_1 = F.linear(linear_0, self.layers[1].weight)",
        "return (linear_1,)",
    ]


def test_the_last_stage_returns_the_loss() -> None:
    lines = forward(chain(2), 0, 1, 1, stage=1)
    assert lines[0] == "def forward(self, linear_0):" and lines[-1] == "return (loss,)"
    assert "# the model itself (Linear) (model.py:1)" in lines


def test_outputs_are_handed_out_where_they_are_asked_for() -> None:
    graph = replace(chain(2), outputs=(Output("hidden", "linear_0"), Output("same", "linear_0")))
    lines = forward(graph, 0, 0, 0)
    assert lines[0] == "def forward(self, features, outputs=None):"
    at = lines.index("if outputs is not None:")
    assert lines[at + 1] == "    outputs |= {'hidden': linear_0, 'same': linear_0}"


def test_a_with_statement_is_shared_by_neighbours() -> None:
    graph = chain(2)
    context = ("torch.autocast(device.type)",)
    operators = [replace(o, contexts=context, module="") for o in graph.operators[:2]]
    lines = forward(replace(graph, operators=(*operators, graph.operators[2])), 0, 0, 0)
    assert lines[1] == "device = features.device"
    assert lines.count("with torch.autocast(device.type):") == 1
    assert "    linear_1 = F.linear(linear_0, self.layers[1].weight)" in lines
    assert lines[-2].startswith("loss = ")


def test_what_depends_on_the_batch_reads_it_off_an_input() -> None:
    graph = chain(1)
    view = made_operator("view", "aten.view.default", "linear_0")
    view = replace(view, args=(Ref("linear_0"), (Sym("4*batch"),)))
    values = {**graph.values, "view": made_value("view", shape=(8,))}
    graph = replace(graph, operators=(graph.operators[0], view), values=values, loss="view")
    lines = forward(graph, 0, 0)
    assert lines[1] == "batch = features.size(0)"
    assert "view = linear_0.view([4*batch])" in lines


def test_a_device_argument_is_the_stages_own() -> None:
    graph = chain(1)
    table = made_operator("table", "aten.arange.default")
    table = replace(table, args=(4,), kwargs=(("device", Literal("device")),))
    graph = replace(graph, operators=(table, *graph.operators))
    lines = forward(graph, 0, 0, 0)
    assert lines[1] == "device = features.device"
    assert "table = torch.arange(4, device=device)" in lines


def test_an_input_that_the_model_writes_is_copied_first() -> None:
    graph = chain(1)
    doubled = made_operator("doubled", "aten.relu_.default", "x", writes=("x",), aliases=("x",))
    linear = replace(
        graph.operators[0], args=(Ref("doubled"), Ref("weight_0")), inputs=("doubled", "weight_0")
    )
    values = {**graph.values, "doubled": made_value("doubled")}
    operators = (doubled, linear, graph.operators[1])
    lines = forward(replace(graph, operators=operators, values=values), 0, 0, 0)
    assert "features = features.clone()" in lines[:3]


def test_a_stage_that_does_something_else_in_eval_mode_has_two_forwards() -> None:
    graph = chain(1)
    (training,) = cut(graph, [(0,), (0,)], 1)
    relu = made_operator("relu", "aten.relu.default", "linear_0")
    evaluation = replace(
        graph,
        operators=(graph.operators[0], relu),
        values={**graph.values, "relu": made_value("relu")},
        loss="relu",
    )
    (other,) = cut(evaluation, [(0,), (0,)], 1)
    both = replace(training, evaluation=other)
    code = write_stage(replace(graph, evaluation=evaluation), both, 1)
    assert "return self.forward_in_training(*given)" in code
    assert "def forward_in_evaluation(self, features):" in code
    same = write_stage(replace(graph, evaluation=graph), replace(training, evaluation=training), 1)
    assert "forward_in_training" not in same


def test_a_built_stage_computes_what_its_operators_say() -> None:
    graph = chain(2)
    cuts = cut(graph, [(0,), (1,), (1,)], 2)
    first, second = (build(graph, stage, 2, torch.device("cpu"), {}) for stage in cuts)
    for module in (first, second):
        for parameter in module.parameters():
            torch.nn.init.constant_(parameter, 0.5)
    batch = torch.ones(2, 4)
    (hidden,) = first(batch)
    (loss,) = second(hidden)
    assert torch.equal(hidden, torch.full((2, 4), 2.0)) and loss.item() == 8 * 4.0
    assert list(first.state_dict()) == ["layers.0.weight"]
    assert list(second.state_dict()) == ["layers.1.weight"]
