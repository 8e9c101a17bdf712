"""A plan that contradicts itself is refused with what is wrong."""

from typing import Any

import pytest

from pipecut.errors import PlanError
from pipecut.plan.consistency import GRAPH, PARAMETERS, SCHEDULE, check_dimensions, contradiction_in
from pipecut.plan.schema import Container, Evaluation, EvaluationStage, Plan, StageTensor, Tied
from tests.plans import made_plan, made_stage, made_tensor

HASHES = {"stages/stage_0.py": "", "stages/stage_1.py": "", SCHEDULE: "", GRAPH: "", PARAMETERS: ""}
STAGE = EvaluationStage(operators=1, receives=[], batch_inputs=[], sends=[])


def plan(**fields: Any) -> Plan:
    return made_plan(2, **{"hashes": HASHES} | fields)


def second(**fields: Any) -> dict[str, Any]:
    """The stages of the plan, the second with other fields."""
    return {"stages": [made_stage(0, 2), made_stage(1, 2, **fields)]}


def test_a_plan_of_a_chain_says_nothing_wrong() -> None:
    assert contradiction_in(plan()) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stages": [], "boundaries": []}, "stages are not numbered"),
        (second(index=2), "stages are not numbered"),
        (second(pipeline_rank=2), "pipeline ranks are not numbered"),
        ({"boundaries": []}, "boundaries are not those between the stages"),
        (
            {"evaluation": Evaluation(stages=[STAGE], boundaries=[])},
            "evaluation has other stages or boundaries",
        ),
        ({"evaluation": Evaluation(stages=[STAGE, STAGE])}, "evaluation has other stages"),
        ({"tied": [Tied(names=["w"], stages=[0, 2])]}, "on a stage that is not there"),
        ({"tied": [Tied(names=[], stages=[0])]}, "has no name, or no stage"),
        ({"tied": [Tied(names=["w"], stages=[])]}, "has no name, or no stage"),
        (
            second(buffers=[StageTensor(names=[], shape=[1], dtype="bool")]),
            "a parameter or buffer has no name",
        ),
        ({"nesting": {"a": Container(kind="list", keys=[0])}}, "no input and no constant"),
        (
            {"nesting": {"a": Container(kind="dict", keys=[0, "0"])}, "constants": {"a.0": 1}},
            "have one name within them",
        ),
        (second(file="elsewhere.py"), "a stage's file has no hash"),
        (
            {"hashes": {name: "" for name in HASHES if name != GRAPH}},
            "graph.json without a hash",
        ),
    ],
)
def test_a_contradiction_is_named(fields: dict[str, Any], message: str) -> None:
    assert message in (contradiction_in(plan(**fields)) or "")


def test_dimensions_are_tried_in_both_modes() -> None:
    odd = made_tensor("odd", shape=["batch.__class__"])
    check_dimensions(plan())
    evaluation = Evaluation(stages=[STAGE, STAGE], boundaries=[[odd]])
    for fields in ({"inputs": [odd]}, second(outputs=[odd]), {"evaluation": evaluation}):
        with pytest.raises(PlanError, match="no expression in batch"):
            check_dimensions(plan(**fields))
