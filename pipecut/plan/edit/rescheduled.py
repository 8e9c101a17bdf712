"""A plan with other actions: what it says of memory and of the step's seconds follows from them."""

from dataclasses import replace

from pipecut.errors import PlanError
from pipecut.plan.actions import ActionTable, splits_backward
from pipecut.plan.check.memory import bytes_of_stage
from pipecut.plan.folder import PlanFolder
from pipecut.plan.replay.memory import peak_of
from pipecut.plan.replay.simulate import predicted
from pipecut.plan.schema import Plan


def costed_for_split_backward(plan: Plan) -> bool:
    """Whether the seconds and the memory of the stages are those of backwards in two parts."""
    return any(stage.weight_seconds for stage in plan.stages)


def refuse_other_backward(plan: Plan, actions: ActionTable) -> None:
    """Raises PlanError where the stages were costed for another kind of backward."""
    splits, costed = any(map(splits_backward, actions)), costed_for_split_backward(plan)
    if splits and not costed:
        raise PlanError(
            "the actions split backwards (I and W), and the plan's stages were costed for whole "
            "ones (B): write B in their place, or compile with a schedule that splits, such as "
            "--schedule zb-h1"
        )
    if costed and not splits:
        raise PlanError(
            "the actions have whole backwards (B), and the plan's stages were costed for split "
            "ones: write I and, later, W in their place, or compile with a schedule that has "
            "whole ones, such as --schedule 1f1b"
        )


def with_actions(folder: PlanFolder, actions: ActionTable) -> PlanFolder:
    """The plan with the actions, predicted anew; whether it is sound is for the checker to say.

    The actions are of the plan's own stages and microbatches, on the stages' own ranks. Raises
    PlanError where they split backwards and the plan's stages were costed for whole ones, or the
    other way about.
    """
    plan = folder.plan
    refuse_other_backward(plan, actions)
    stages = [
        stage.model_copy(
            update={
                "memory_bytes": bytes_of_stage(
                    plan, folder.graph, stage, actions[stage.pipeline_rank]
                )
            }
        )
        for stage in plan.stages
    ]
    plan = plan.model_copy(update={"stages": stages})
    stages = [
        stage.model_copy(
            update={"peak_bytes": peak_of(plan, actions[stage.pipeline_rank], stage.pipeline_rank)}
        )
        for stage in plan.stages
    ]
    plan = plan.model_copy(update={"stages": stages})
    timeline = predicted(replace(folder, plan=plan, actions=actions))
    new_times = {"step_seconds": timeline.step_seconds, "bubble": timeline.bubble}
    prediction = plan.prediction.model_copy(update=new_times)
    return replace(folder, plan=plan.model_copy(update={"prediction": prediction}), actions=actions)
