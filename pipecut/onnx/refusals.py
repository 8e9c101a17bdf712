"""Why a plan cannot be written as ONNX, in the user's terms."""

import re

from pipecut.errors import PlanError
from pipecut.plan.schema import Plan, Stage

_TARGET = re.compile(r"target=torch\.ops\.([\w.]+)")


def refuse_training_only(plan: Plan) -> None:
    """Raises PlanError where the model cannot be evaluated, or returns nothing then."""
    if plan.evaluation.refused:
        raise PlanError(
            f"the plan only trains, and ONNX is for inference: {plan.evaluation.refused}"
        )
    if not plan.evaluation.loss and not any(stage.outputs for stage in plan.stages):
        raise PlanError(
            "the model returns nothing in eval mode that could be handed out; have its forward "
            "return a tensor, and compile again"
        )


def refuse_opaque(plan: Plan) -> None:
    """Raises PlanError where a stage has a module of the user's that runs as it is."""
    for stage in plan.stages:
        for module in stage.opaque:
            raise PlanError(
                f"stage {stage.index} runs '{module.name}' as it is, by the model's own code, "
                "which ONNX cannot hold; write the module so that it can be traced"
            )


def why(stage: Stage, error: BaseException) -> str:
    """What of a stage the exporter cannot write, and what to do."""
    where = f"stage {stage.index} ({', '.join(stage.modules[:3]) or stage.file})"
    texts = [str(e) for e in _causes(error)]
    target = next((match[1] for text in texts if (match := _TARGET.search(text))), None)
    reason = next((line for text in texts[::-1] for line in text.strip().splitlines()), "")
    if target is not None:
        # The operator once more, as torch prints it, and what else was tried.
        reason = reason.partition(" for <OpOverload")[0]
        return (
            f"{where} cannot be written as ONNX: the operator {target}: {reason}; have the model "
            "do this in eval mode with operators that ONNX has"
        )
    return f"{where} cannot be written as ONNX: {reason or type(error).__name__}"


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what it comes from, the first cause last."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    return causes
