"""The independent checker: proves a plan before its first step.

It knows neither the solver nor the schedule's generator.
"""

from pipecut.plan.check.computes import computes_everything
from pipecut.plan.check.evaluation import evaluates
from pipecut.plan.check.memory import memory_fits
from pipecut.plan.check.messages import in_order, no_deadlock
from pipecut.plan.check.placement import all_placed, flows_forward, names_known
from pipecut.plan.check.value_checks import values_checked
from pipecut.plan.folder import PlanFolder


def check(folder: PlanFolder) -> list[str]:
    """What was proven, a line each; the last says what is known of the trace.

    Raises PlanError with the first thing that does not hold.
    """
    plan, graph, actions = folder.plan, folder.graph, folder.actions
    names_known(plan, graph)
    return [
        all_placed(plan, graph),
        flows_forward(plan, graph),
        computes_everything(plan, actions),
        in_order(plan, actions),
        no_deadlock(plan, actions),
        memory_fits(plan, graph, actions),
        evaluates(plan, graph),
        str(plan.trace),
        *values_checked(plan, graph),
    ]
