"""In eval mode, too, every stage has what it uses, and values only go forward."""

from pipecut.errors import PlanError
from pipecut.plan.check.placement import flows_forward, names_on
from pipecut.plan.schema import Plan
from pipecut.plan.schema.graph import EvaluationGraph, PlanGraph
from pipecut.quantities import counted


def evaluates(plan: Plan, graph: PlanGraph) -> str:
    """Eval mode is complete, or the plan only trains. Raises PlanError."""
    if plan.evaluation.refused:
        return f"the plan only trains: {plan.evaluation.refused}"
    evaluated, operators = plan.in_evaluation(), "the same operators"
    if plan.evaluation.stages:
        evaluation = graph.evaluation
        if evaluation is None:
            raise PlanError(
                "the plan has stages of eval mode, but the graph no operators of it; compile again"
            )
        _check_inputs(plan)
        _check_operators(plan, graph, evaluation)
        _check_loss(plan, evaluation)
        flows_forward(evaluated, evaluation)
        _check_outputs(evaluated, evaluation)
        operators = f"{counted(len(evaluation.operators), 'operator')} of its own"
    outputs = sum(len(stage.outputs) for stage in evaluated.stages)
    return f"eval mode runs {operators} and returns {counted(outputs, 'output')}"


def _check_inputs(plan: Plan) -> None:
    inputs = {tensor.name for tensor in plan.inputs}
    for stage in plan.evaluation.stages:
        unknown = [name for name in stage.batch_inputs if name not in inputs]
        if unknown:
            raise PlanError(
                f"eval mode takes '{unknown[0]}', which is no input of the plan; compile again"
            )


def _check_operators(plan: Plan, graph: PlanGraph, evaluation: EvaluationGraph) -> None:
    """Each is on a stage that holds the parameters and buffers it uses."""
    on_stage = [names_on(stage) for stage in plan.stages]
    entries = (*graph.parameters, *evaluation.buffers)
    names = {entry.value: entry.names[0] for entry in entries}
    for operator in evaluation.operators:
        if not 0 <= operator.stage < len(plan.stages):
            raise PlanError(f"operator {operator.name} of eval mode is on no stage; compile again")
        used = [names[value] for value in operator.inputs if value in names]
        lacking = [name for name in used if name not in on_stage[operator.stage]]
        if lacking:
            raise PlanError(
                f"in eval mode stage {operator.stage} uses {lacking[0]} but does not hold it; "
                "compile again"
            )


def _check_loss(plan: Plan, evaluation: EvaluationGraph) -> None:
    if not plan.evaluation.loss:
        return
    stages = {operator.name: operator.stage for operator in evaluation.operators}
    maker = stages.get(evaluation.loss)
    if maker is None:
        raise PlanError("no operator of eval mode makes the loss; compile again")
    on_the_way = plan.evaluation.stages[maker:-1]
    if any(evaluation.loss not in stage.sends for stage in on_the_way):
        raise PlanError("the loss of eval mode does not reach the last stage; compile again")


def _check_outputs(plan: Plan, evaluation: EvaluationGraph) -> None:
    stages = {operator.name: operator.stage for operator in evaluation.operators}
    for stage in plan.stages:
        for tensor in stage.outputs:
            value = evaluation.outputs.get(tensor.name, "")
            if stages.get(value) != stage.index:
                raise PlanError(
                    f"stage {stage.index} does not make the output '{tensor.name}'; compile again"
                )
