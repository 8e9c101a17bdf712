"""Operators of eval mode stand where training has them, else as early as what they need allows."""

from dataclasses import replace

from pipecut.compiler.graph import Graph, Operator
from pipecut.compiler.stages.cut import cut
from pipecut.compiler.stages.place_evaluation import EvaluationCuts, place_evaluation
from tests.compiler.chain_graphs import chain, made_operator, made_parameter, made_value


def with_evaluation(training: Graph, *operators: Operator) -> Graph:
    """A graph that runs these operators in eval mode."""
    values = training.values | {o.name: made_value(o.name, needs_grad=False) for o in operators}
    evaluation = replace(training, operators=operators, values=values, loss=operators[-1].name)
    return replace(training, evaluation=evaluation, values=values)


def placed(graph: Graph, *stages: int) -> EvaluationCuts:
    stages_of = [(stage,) for stage in stages]
    return place_evaluation(graph, stages_of, cut(graph, stages_of, max(stages) + 1))


def names_on(result: EvaluationCuts, graph: Graph) -> list[list[str]]:
    assert graph.evaluation is not None
    operators = graph.evaluation.operators
    evaluated = [stage.evaluation for stage in result.cuts]
    return [[operators[i].name for i in stage.operators] for stage in evaluated if stage]


def test_a_graph_that_runs_as_it_stands_keeps_its_cuts() -> None:
    graph = replace(chain(2), refused="it samples")
    result = placed(graph, 0, 1, 1)
    assert result.refused == "it samples" and all(stage.evaluation is None for stage in result.cuts)


def test_what_both_modes_run_stays_where_training_has_it() -> None:
    graph = chain(3)
    graph = with_evaluation(graph, *graph.operators)
    result = placed(graph, 0, 0, 1, 1)
    assert names_on(result, graph) == [["linear_0", "linear_1"], ["linear_2", "loss"]]
    # Nothing that crosses is different, and nothing is held twice.
    assert [stage.evaluation.sends for stage in result.cuts if stage.evaluation] == [
        ("linear_1",),
        (),
    ]
    assert result.cuts[1].held == {"weight_2"}


def test_what_eval_mode_adds_stands_as_early_as_it_can() -> None:
    graph = chain(2)
    scale = made_operator("scale", "aten.relu.default", "linear_0")
    graph = with_evaluation(graph, graph.operators[0], scale, *graph.operators[1:])
    assert names_on(placed(graph, 0, 1, 1), graph) == [["linear_0", "scale"], ["linear_1", "loss"]]


def test_a_constant_stands_where_it_is_first_used() -> None:
    graph = chain(2)
    table = made_operator("table", "aten.arange.default")
    last = made_operator("shifted", "aten.add.Tensor", "linear_1", "table")
    graph = with_evaluation(graph, table, *graph.operators[:2], last)
    assert names_on(placed(graph, 0, 1, 1), graph) == [
        ["linear_0"],
        ["table", "linear_1", "shifted"],
    ]


def test_a_parameter_of_eval_mode_alone_is_held_by_the_stage_that_uses_it() -> None:
    extra = made_parameter("extra", "scale.weight")
    graph = replace(chain(2), parameters=(*chain(2).parameters, extra))
    scaled = made_operator("scaled", "aten.linear.default", "linear_1", "extra")
    graph = with_evaluation(graph, *graph.operators[:2], scaled)
    result = placed(graph, 0, 1, 1)
    # Training alone would leave it on the first stage, where nobody uses it.
    assert [("extra" in stage.held) for stage in result.cuts] == [False, True]


def test_what_would_go_back_is_refused_with_where_and_what_to_do() -> None:
    graph = chain(2)
    back = made_operator("back", "aten.linear.default", "linear_1", "weight_0", module="layers.0")
    graph = with_evaluation(graph, *graph.operators[:2], back)
    result = placed(graph, 0, 1, 1)
    assert result.refused.startswith("in eval mode layers.0 (model.py:1) needs what a later stage")
    assert "compile with fewer stages" in result.refused
    assert all(stage.evaluation is None for stage in result.cuts)


def test_where_training_would_lead_into_a_dead_end_the_earliest_stage_is_tried() -> None:
    # In training `shared` stands on the last stage; eval mode needs it before the second layer.
    graph = chain(2)
    shared = made_operator("shared", "aten.relu.default", "linear_0")
    added = made_operator("added", "aten.linear.default", "shared", "weight_1")
    last = made_operator("last", "aten.relu.default", "added")
    training = replace(
        graph,
        operators=(*graph.operators[:2], shared, graph.operators[2]),
        values={**graph.values, "shared": made_value("shared")},
    )
    graph = with_evaluation(training, graph.operators[0], shared, added, last)
    result = placed(graph, 0, 1, 2, 2)
    assert result.refused == ""
    assert names_on(result, graph) == [["linear_0", "shared"], ["added", "last"], []]
