"""The passes, in order: each takes values and returns a value."""

from collections.abc import Callable

from pipecut.compiler.emit.folder import files_of_plan, write_folder
from pipecut.compiler.fit import Problem, fit
from pipecut.compiler.graphs import Costs, Graphs
from pipecut.compiler.inputs.cluster import read_cluster
from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.notes import notes_of
from pipecut.compiler.partition.constraints import placement_rules
from pipecut.compiler.partition.partition import blocks_for
from pipecut.compiler.profile.measured_costs import measured_costs
from pipecut.compiler.provenance import source_of
from pipecut.compiler.refusals import Proposal, refuse_impossible
from pipecut.compiler.request import Compiled, Request
from pipecut.compiler.search.candidates import smallest_microbatch
from pipecut.compiler.search.search import choose, search
from pipecut.compiler.search.sensitivity import sensitivities
from pipecut.compiler.search.sizes import resolve_sizes, usable_devices
from pipecut.compiler.search.trial import Setting
from pipecut.plan.folder import read_plan

Progress = Callable[[str], None]


def silent(_: str) -> None:
    """No progress."""


def compile_plan(request: Request, progress: Progress = silent) -> Compiled:
    """Compile a job for a cluster into a plan folder.

    Raises UserFileError or TraceError for the user's files, InfeasibleError when nothing fits.
    """
    options = request.options
    progress("reading the job and the cluster")
    job, machine = read_job(request.job), read_cluster(request.cluster)
    cluster = machine.without(options.lost)
    devices = usable_devices(cluster, job.spec, options.sizes)
    space = resolve_sizes(job.spec, job.path, devices, options.sizes)
    files_of_plan(request.output)

    graphs = Graphs(job, smallest_microbatch(space), progress)
    measured = measured_costs(options.costs, options.profile)
    costs = Costs(graphs, cluster, measured, progress)
    refuse_impossible(Proposal.of(job, graphs.first, cluster, costs, space))
    setting = Setting(job, cluster, costs)
    trials = search(space, setting, progress) if options.explain or not space.fixed else ()
    sizes = choose(space, trials)
    limits = sensitivities(space, trials, setting, progress) if options.explain else ()

    job = job.with_microbatch(sizes.microbatch)
    graph = graphs[sizes.microbatch]
    costed = costs[sizes.microbatch]
    constraints = placement_rules(job, graph, sizes.stages)
    blocks = blocks_for(costed, cluster, job.spec, constraints, sizes)
    compared = 0 if space.fixed else len(trials)
    notes = notes_of(job.spec, sizes, costs.measured_kinds(sizes.microbatch), compared)
    problem = Problem(job, costed, cluster, blocks, sizes, options.solving)
    fitted = fit(problem, notes, progress)
    draft = fitted.draft
    source = source_of(request, job.spec, machine, draft)
    plan = fitted.plan.model_copy(update={"source": source})
    progress("writing and checking the plan")
    write_folder(request.output, plan, costed, draft)
    return Compiled(read_plan(request.output), trials, limits)
