"""The passes, in order: each takes values and returns a value."""

from collections.abc import Callable
from pathlib import Path

from pipecut.compiler.compare.compare import compare
from pipecut.compiler.costs.roofline import CostedGraph
from pipecut.compiler.draft import Draft, draft_of
from pipecut.compiler.emit.explanation import explanation_of
from pipecut.compiler.emit.folder import emit
from pipecut.compiler.emit.plan import plan_of
from pipecut.compiler.emit.publish import publish, refuse_occupied
from pipecut.compiler.exchange.layout_price import with_price_of_layout
from pipecut.compiler.fit import shortage
from pipecut.compiler.graphs import Costs, Graphs
from pipecut.compiler.inputs.cluster_file import read_cluster
from pipecut.compiler.notes import notes_of
from pipecut.compiler.partition.constraints import placement_rules
from pipecut.compiler.partition.partition import coarsen_for, partition
from pipecut.compiler.predict.memory import replay
from pipecut.compiler.predict.step import schedule
from pipecut.compiler.provenance import source_of
from pipecut.compiler.refusals import Proposal, refuse_impossible
from pipecut.compiler.request import Compiled, Request
from pipecut.compiler.search.candidates import smallest_microbatch
from pipecut.compiler.search.search import Chosen, choose
from pipecut.compiler.search.sizes import search_space
from pipecut.compiler.search.trial import Setting
from pipecut.plan.check.check import check
from pipecut.plan.schema import Plan
from pipecut.quantities import counted
from pipecut.rare_collections import rare_collections

Progress = Callable[[str], None]


def silent(_: str) -> None:
    """No progress."""


@rare_collections()
def compile_plan(request: Request, progress: Progress = silent) -> Compiled:
    """Compile a job for a cluster into a plan folder.

    Raises UserFileError or TraceError for the user's files, InfeasibleError when nothing fits.
    """
    options = request.options
    progress("reading the job and the cluster")
    job, machine = request.read_job(), read_cluster(request.cluster)
    cluster = machine.without(options.lost)
    space = search_space(job, cluster, options.sizes)
    refuse_occupied(request.output)
    graphs = Graphs(job, smallest_microbatch(space), progress)
    costs = Costs(graphs, cluster, options.measured_costs(), progress)
    refuse_impossible(Proposal.of(job, graphs.first, cluster, costs, space))
    choice = choose(space, Setting(job, cluster, costs), progress, options.explain)

    sizes = choice.sizes
    job = job.with_microbatch(sizes.microbatch)
    graph = graphs[sizes.microbatch]  # trace
    compared = compare(job, graph, options.trust_trace, progress, cluster)
    costed = costs[sizes.microbatch]
    blocks = coarsen_for(
        costed, cluster, job.spec, placement_rules(job, graph, sizes.stages), sizes
    )
    fits = False
    while not fits:
        progress(f"placing {len(graph.operators):,} operators on {counted(sizes.stages, 'stage')}")
        placed = partition(blocks, cluster, job.spec.precision, sizes, options.solving)
        progress(f"scheduling {counted(sizes.microbatches, 'microbatch')}, {sizes.schedule}")
        scheduled = schedule(costed, placed.cluster, placed.placement, sizes)
        draft = draft_of(graph, sizes, placed, scheduled)
        notes = notes_of(job, cluster, costs, choice)
        source = source_of(request, job.spec, machine, draft)
        plan = plan_of(job, costed, draft, source, notes, compared)
        progress("replaying its memory")
        plan = replay(plan, graph, draft.scheduled, draft.code)
        fits, cluster = not any(shortage(plan)), cluster.leaving_free(shortage(plan))
    plan = with_price_of_layout(plan, job, costed, draft, options.solving)
    progress("writing and checking the plan")
    return _written(plan, costed, draft, request.output, choice)


def _written(
    plan: Plan, costed: CostedGraph, draft: Draft, output: Path, choice: Chosen
) -> Compiled:
    """The last passes: emit, check, publish."""
    with emit(plan, costed, draft, output, explanation_of(choice)) as folder:
        check(folder)
        published = publish(folder, output)
    return Compiled(published, choice.trials, choice.sensitivities)
