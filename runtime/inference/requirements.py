"""What a plan must have so that it can predict: asked before any rank starts."""

from pipecut.errors import UserFileError
from pipecut.plan.schema import Plan


def refuse_without_outputs(plan: Plan) -> None:
    """Raises UserFileError where eval mode cannot run, or returns nothing but a loss."""
    evaluation = plan.evaluation
    if evaluation.refused:
        raise UserFileError(f"the plan only trains, so it predicts nothing: {evaluation.refused}")
    if any(stage.outputs for stage in plan.in_evaluation().stages):
        return
    raise UserFileError(
        f"{evaluation.nothing_to_predict()}; return tensors beside it, such as a dictionary with "
        "'loss' and 'logits', and compile again"
    )
