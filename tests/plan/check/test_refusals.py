"""The checker passes a plan made by hand, and refuses it for each thing that is wrong with it."""

from dataclasses import replace
from typing import Any

import pytest

from pipecut.errors import PlanError
from pipecut.plan.check.check import check
from pipecut.plan.folder import PlanFolder
from pipecut.plan.schema import Evaluation, StageTensor
from pipecut.plan.schema.graph import (
    EvaluationGraph,
    EvaluationOperator,
    GraphBuffer,
    GraphParameter,
)
from pipecut.plan.schema.plan import Tied
from pipecut.plan.schema.stage import EvaluationStage
from tests.graphs import ROWS, made_actions, made_folder, made_graph, made_operator
from tests.plans import made_plan, made_stage, made_tensor

FIRST, SECOND = ROWS


def refuse(folder: PlanFolder, match: str) -> None:
    with pytest.raises(PlanError, match=match):
        check(folder)


def with_rows(*rows: str) -> PlanFolder:
    return replace(made_folder(), actions=made_actions(*rows))


def with_graph(**fields: Any) -> PlanFolder:
    return replace(made_folder(), graph=made_graph(**fields))


def with_stage(index: int, **fields: Any) -> PlanFolder:
    """One stage of the plan with other fields."""
    folder = made_folder()
    stages = list(folder.plan.stages)
    stages[index] = stages[index].model_copy(update=fields)
    return replace(folder, plan=folder.plan.model_copy(update={"stages": stages}))


def with_plan(**fields: Any) -> PlanFolder:
    folder = made_folder()
    return replace(folder, plan=folder.plan.model_copy(update=fields))


def test_a_plan_made_by_hand_is_proven() -> None:
    assert check(made_folder()) == [
        "2 operators, 2 parameters, 0 buffers placed",
        "the stage graph is acyclic; 1 tensor crosses 1 boundary",
        "8 forward and backward actions, each once",
        "each of 4 sends meets its receive, in one order on both sides of its channel",
        "3 groups open one after the other; no deadlock under rendezvous, nor where messages "
        "occupy their ranks",
        "memory fits on every rank at every moment (at most 2% of capacity)",
        "eval mode runs the same operators and returns 0 outputs",
        "trace compared with the model: no",
    ]


def test_names_that_the_graph_has_not_are_refused() -> None:
    stray = StageTensor(names=["stray"], shape=[1], dtype="float32")
    refuse(with_stage(1, parameters=[stray]), "stage 1 has 'stray', which the graph does not")
    refuse(with_stage(0, sends=["hidden_7"]), "stage 0 has 'hidden_7'")
    refuse(with_stage(0, batch_inputs=["y"]), "stage 0 has 'y'")
    tied = Tied(names=["layers.0.weight"], stages=[0, 1])
    refuse(with_plan(tied=[tied]), r"layers.0.weight is not on all of the stages \[0, 1\]")


def test_what_is_on_no_stage_is_refused() -> None:
    lost = made_operator("hidden_1", ("hidden_0", "weight_1"), 5)
    refuse(with_graph(operators=(made_graph().operators[0], lost)), "hidden_1 .* is on no stage")
    extra = GraphParameter(value="w", names=("extra",), bytes=4, trainable=False)
    parameters = (*made_graph().parameters, extra)
    refuse(with_graph(parameters=parameters), "parameter or buffer extra is on no stage")
    buffer = GraphBuffer(value="b", names=("statistics",))
    refuse(with_graph(buffers=(buffer,)), "parameter or buffer statistics is on no stage")


def test_a_stage_that_uses_what_it_does_not_hold_is_refused() -> None:
    foreign = made_operator("hidden_1", ("hidden_0", "weight_0"), 1)
    operators = (made_graph().operators[0], foreign)
    refuse(with_graph(operators=operators), "stage 1 uses layers.0.weight but does not hold it")


def test_a_parameter_on_two_stages_whose_gradients_are_not_summed_is_refused() -> None:
    both = [*made_stage(1, 2).parameters, *made_stage(0, 2).parameters]
    refuse(with_stage(1, parameters=both), r"layers.0.weight is on stages \[0, 1\] but its grad")


def test_values_that_go_back_or_do_not_cross_are_refused() -> None:
    first, last = made_graph().operators
    back = made_operator("hidden_0", ("hidden_1", "weight_0"), 0)
    refuse(with_graph(operators=(back, last)), "hidden_0 on stage 0 uses hidden_1 of later stage 1")
    extra = made_operator("aside", ("x",), 0)
    uses = made_operator("hidden_1", ("hidden_0", "aside", "weight_1"), 1)
    refuse(with_graph(operators=(first, extra, uses)), "aside is needed on stage 1 but .* 0 -> 1")
    refuse(with_stage(1, receives=[]), "stages 0 and 1 disagree about what crosses")


def test_a_value_that_a_stage_makes_for_itself_needs_not_cross() -> None:
    first, last = made_graph().operators
    mask = made_operator("mask", (), 0, stages=(0, 1))
    uses = made_operator("hidden_1", ("hidden_0", "mask", "weight_1"), 1)
    assert check(with_graph(operators=(first, mask, uses)))


def test_computes_that_are_missing_or_twice_are_refused() -> None:
    refuse(with_rows(FIRST.replace(", B 0.1", ""), SECOND), "stage 0: B does not run once for each")
    refuse(with_rows(FIRST, SECOND.replace(" F 1.1", " F 1.0")), "stage 1: F does not run once")
    refuse(with_rows(FIRST, SECOND + ", F 1.2"), "stage 1: F does not run once")
    refuse(with_rows(FIRST), "schedule.yaml has 1 ranks, the plan 2")


def test_a_backward_that_is_split_here_and_whole_there_is_refused() -> None:
    split = SECOND.replace(" B 1.1", " I 1.1, W 1.1")
    refuse(with_rows(FIRST, split), "stage 1: I does not run once")
    mixed = SECOND.replace(" B 1.0", " I 1.0, W 1.0").replace(" B 1.1", " I 1.1, W 1.1, B 1.1")
    refuse(with_rows(FIRST, mixed), "stage 1: some backwards are split and some are not")


def test_sums_of_gradients_come_last_and_where_they_are_needed() -> None:
    refuse(with_rows("REDUCE, " + FIRST, SECOND), "REDUCE is not the last")
    refuse(with_plan(replicas=2, batch=made_plan().batch), "replicas need one REDUCE on every rank")


def test_combinations_that_cannot_be_are_refused() -> None:
    written = StageTensor(names=["count"], shape=[1], dtype="float32", written=True)
    folder = with_stage(0, buffers=[written])
    refuse(
        replace(folder, plan=folder.plan.model_copy(update={"replicas": 2})),
        "data_parallel 2: the model changes buffers .*; compile again",
    )


def test_messages_that_do_not_meet_are_refused() -> None:
    refuse(with_rows(FIRST.replace("RECV_B 0.1, ", ""), SECOND), "rank 0 receives nothing")
    refuse(with_rows(FIRST.replace("F 0.0, SEND", "F 0.0, SEND_B 0.0, SEND"), SECOND), "nothing")
    refuse(with_rows(FIRST + ", RECV_F 1.0", SECOND), "rank 0 has 'RECV_F 1.0', but stage 1 is on")
    refuse(with_rows(FIRST + ", SEND_F 9.0", SECOND), "but no rank has that stage")
    late = FIRST.replace("RECV_B 0.0, B 0.0", "B 0.0, RECV_B 0.0")
    refuse(with_rows(late, SECOND), "deadlocks: rank 0 at 'B 0.0'")


def test_memory_that_is_not_there_is_refused() -> None:
    refuse(with_stage(0, capacity_bytes=10), r"rank 0, stage 0: needs \d+ bytes of 10")
    refuse(with_stage(1, memory_bytes=10), r"stage 1: the plan says 10 bytes, the schedule needs")
    refuse(with_stage(0, peak_bytes=1), r"rank 0: the plan says 1 bytes at the peak, a step takes")
    refuse(with_stage(0, device_bytes=200), "rank 0: a step takes 264 bytes .* larger reserve")


def test_the_need_of_a_stage_is_its_parameters_what_is_in_flight_and_its_largest_operator() -> None:
    # Weight and gradient of 64 bytes, two microbatches of 10 saved, 20 while an operator runs.
    needed = 2 * 64 + 2 * 10 + 20
    assert check(with_stage(0, memory_bytes=needed))
    refuse(with_stage(0, memory_bytes=needed - 1), f"the schedule needs {needed}")
    # One microbatch in flight, which received 32 bytes.
    needed = 2 * 64 + 1 * (10 + 32) + 20
    assert check(with_stage(1, memory_bytes=needed))
    refuse(with_stage(1, memory_bytes=needed - 1), f"the schedule needs {needed}")


EVALUATION = EvaluationGraph(
    loss="loss",
    operators=(
        EvaluationOperator(target="", module="", name="h", inputs=("x", "weight_0"), stage=0),
        EvaluationOperator(target="", module="", name="loss", inputs=("h", "weight_1"), stage=1),
    ),
    outputs={"logits": "loss"},
    buffers=(),
)


def evaluating(graph: EvaluationGraph | None = EVALUATION, **fields: Any) -> PlanFolder:
    """The plan with stages of eval mode that are their own."""
    boundaries = [[made_tensor("h", needs_grad=False)]]
    stages = [
        EvaluationStage(operators=1, receives=[], batch_inputs=["x"], sends=["h"]),
        EvaluationStage(
            operators=1, receives=["h"], batch_inputs=[], sends=[], outputs=[made_tensor("logits")]
        ),
    ]
    stages = fields.pop("stages", stages)
    evaluation = Evaluation(stages=stages, boundaries=boundaries, **fields)
    folder = with_plan(evaluation=evaluation)
    return replace(folder, graph=made_graph(evaluation=graph))


def evaluated_by(*operators: tuple[str, tuple[str, ...], int]) -> EvaluationGraph:
    made = tuple(
        EvaluationOperator(target="", module="", name=name, inputs=inputs, stage=stage)
        for name, inputs, stage in operators
    )
    return EVALUATION.model_copy(update={"operators": made})


def test_eval_mode_of_its_own_is_proven() -> None:
    assert "eval mode runs 2 operators of its own and returns 1 output" in check(evaluating())
    refused = with_plan(evaluation=Evaluation(refused="it branches"))
    assert "the plan only trains: it branches" in check(refused)


def test_eval_mode_that_lacks_something_is_refused() -> None:
    refuse(evaluating(None), "stages of eval mode, but the graph no operators of it")
    h, loss = ("h", ("x", "weight_0"), 0), ("loss", ("h", "weight_1"), 1)
    refuse(evaluating(evaluated_by(("h", ("x",), 7), loss)), "operator h of eval mode is on no st")
    foreign = ("h", ("x", "weight_1"), 0)
    refuse(evaluating(evaluated_by(foreign, loss)), "stage 0 uses layers.1.weight but does not")
    refuse(evaluating(evaluated_by(h)), "no operator of eval mode makes the loss")
    early = ("loss", ("h", "weight_0"), 0)
    refuse(evaluating(evaluated_by(h, early)), "the loss of eval mode does not reach the last")
    other = EVALUATION.model_copy(update={"outputs": {}})
    refuse(evaluating(other), "stage 1 does not make the output 'logits'")
    unknown = EvaluationStage(operators=1, receives=[], batch_inputs=["z"], sends=["h"])
    stages = [unknown, evaluating().plan.evaluation.stages[1]]
    refuse(evaluating(stages=stages), "eval mode takes 'z', which is no input of the plan")
