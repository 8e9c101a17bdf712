"""What a plan must have for the training that it says: asked before any rank starts."""

from pipecut.errors import UserFileError
from pipecut.plan.schema import Plan


def refuse_without_loss(plan: Plan) -> None:
    """Raises UserFileError where the job asks for a loss in eval mode that the model has not."""
    evaluation = plan.evaluation
    if plan.eval is None or (evaluation.loss and not evaluation.refused):
        return
    why = evaluation.refused or "the model returns no loss in eval mode"
    raise UserFileError(
        f"the job's eval: cannot be: {why}; leave eval: out of the job file and compile again"
    )
