"""Every choice by a value that a plan was made for is answered on the stage that checks it."""

from collections.abc import Iterator

from pipecut.errors import PlanError
from pipecut.plan.schema import Plan
from pipecut.plan.schema.graph import EvaluationGraph, PlanGraph
from pipecut.quantities import counted


def values_checked(plan: Plan, graph: PlanGraph) -> Iterator[str]:
    """A line on a plan that has checks of values, in either mode. Raises PlanError."""
    count = _check_mode(plan, graph)
    if plan.evaluation.stages and graph.evaluation is not None:
        count += _check_mode(plan.in_evaluation(), graph.evaluation)
    if count:
        yield f"{counted(count, 'choice')} by a value checked in every microbatch"


def _check_mode(plan: Plan, graph: PlanGraph | EvaluationGraph) -> int:
    """How many checks one mode has."""
    stages_of = {operator.name: operator.placed_on for operator in graph.operators}
    inputs = {tensor.name for tensor in plan.inputs}
    for stage in plan.stages:
        for check in stage.checks:
            if stage.index not in stages_of.get(check.value, ()):
                raise PlanError(
                    f"stage {stage.index} checks '{check.value}' but does not make it; "
                    "compile again"
                )
            unknown = [name for name in check.inputs if name not in inputs]
            if unknown:
                raise PlanError(
                    f"stage {stage.index} has a check of '{unknown[0]}', which is no input of the "
                    "plan; compile again"
                )
    return sum(len(stage.checks) for stage in plan.stages)
