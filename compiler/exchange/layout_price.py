"""What a layout costs beside the best cut into as many stages."""

from dataclasses import dataclass, replace

from pipecut.compiler.costs.roofline import CostedGraph
from pipecut.compiler.draft import Draft
from pipecut.compiler.graph import Graph
from pipecut.compiler.inputs.job import Job
from pipecut.compiler.partition.constraints import placement_rules
from pipecut.compiler.partition.layouts import layout_of
from pipecut.compiler.partition.partition import coarsen_for, partition
from pipecut.compiler.partition.place import SolverOptions
from pipecut.compiler.partition.placement import Placement
from pipecut.compiler.predict.step import Scheduled, schedule
from pipecut.errors import UserFileError
from pipecut.plan.schema import Plan
from pipecut.quantities import show_seconds

# The note of a plan with a layout.
LAYOUT = "layout "


@dataclass(frozen=True)
class Cut:
    """A placement, and its schedule."""

    placement: Placement
    scheduled: Scheduled

    @property
    def bottleneck(self) -> float:
        """Seconds of the slowest stage for a microbatch."""
        return self.placement.certificate.objective


def with_price_of_layout(
    plan: Plan, job: Job, costed: CostedGraph, draft: Draft, options: SolverOptions
) -> Plan:
    """The plan with a note on its layout beside the optimum, where the job has a layout.

    Raises InfeasibleError.
    """
    text, sizes = job.spec.placement.layout, draft.candidate
    if text is None:
        return plan
    free = replace(job, spec=job.spec.with_layout(None))
    rules = placement_rules(free, costed.graph, sizes.stages)
    blocks = coarsen_for(costed, draft.cluster, free.spec, rules, sizes)
    placed = partition(blocks, draft.cluster, free.spec.precision, sizes, options)
    scheduled = schedule(costed, placed.cluster, placed.placement, sizes)
    best = Cut(placed.placement, scheduled)
    comparison = compared(Cut(draft.placement, draft.scheduled), best)
    note = f"{LAYOUT}{text}: {comparison}; the best cut: {_named(best, costed.graph)}"
    return plan.model_copy(update={"notes": [*plan.notes, note]})


def compared(layout: Cut, best: Cut) -> str:
    """Bottleneck and step of both."""
    slower = layout.bottleneck / best.bottleneck - 1
    verdict = "" if best.placement.certificate.proven else ", not proven"
    return (
        f"bottleneck {show_seconds(layout.bottleneck)} per microbatch, {slower:.1%} above the best "
        f"cut's {show_seconds(best.bottleneck)}{verdict}; predicted step "
        f"{show_seconds(layout.scheduled.step_seconds)}, the best cut's "
        f"{show_seconds(best.scheduled.step_seconds)}"
    )


def _named(best: Cut, graph: Graph) -> str:
    """Its layout, or why it has none."""
    values = {parameter.value for parameter in graph.parameters}
    stages = len(best.scheduled.cuts)
    try:
        return str(layout_of(graph.operators, values, best.placement.stages_of, stages))
    except UserFileError as error:
        return f"no layout, since {error}"
