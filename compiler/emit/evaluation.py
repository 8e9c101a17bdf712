"""Eval mode as the plan has it."""

from collections.abc import Sequence

from pipecut.compiler.emit.tensors import checks_of, names_of_batch_inputs, output_of, tensor_of
from pipecut.compiler.graph import Graph
from pipecut.compiler.stages.cut import Cut
from pipecut.plan.schema import Evaluation, EvaluationStage, Tensor


def evaluation_of(graph: Graph, cuts: Sequence[Cut], refused: str) -> Evaluation | None:
    """What is different in eval mode; None where it runs and returns what training does."""
    evaluation = Evaluation()
    if refused:
        evaluation = evaluation.model_copy(update={"refused": refused})
    if graph.left_out:
        evaluation = evaluation.model_copy(update={"left_out": graph.left_out})
    cuts_in_evaluation = [cut.evaluation for cut in cuts if cut.evaluation is not None]
    if graph.evaluation is not None and cuts_in_evaluation:
        evaluation = evaluation.model_copy(
            update={
                "loss": bool(graph.evaluation.loss),
                "dynamic": graph.evaluation.dynamic,
                "longest_only": bool(graph.lengths) and not graph.evaluation.lengths,
                "stages": [_stage(graph.evaluation, cut) for cut in cuts_in_evaluation],
                "boundaries": [_sent(graph.evaluation, cut) for cut in cuts_in_evaluation[:-1]],
            }
        )
    return evaluation if evaluation.model_fields_set else None


def _stage(graph: Graph, cut: Cut) -> EvaluationStage:
    return EvaluationStage(
        operators=len(cut.operators),
        receives=list(cut.receives),
        batch_inputs=names_of_batch_inputs(graph, cut),
        sends=list(cut.sends),
        outputs=[output_of(graph, output) for output in cut.outputs],
        checks=checks_of(graph, cut.checks),
        draws=[number for index in cut.operators for number in graph.operators[index].draws],
    )


def _sent(graph: Graph, cut: Cut) -> list[Tensor]:
    """The tensors that cross the boundary after a stage: nothing goes back in eval mode."""
    return [tensor_of(graph, name).model_copy(update={"needs_grad": False}) for name in cut.sends]
