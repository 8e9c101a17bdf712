"""The passes, in order."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from pipecut.compiler.cluster import Cluster, read_cluster
from pipecut.compiler.constraints import constraints
from pipecut.compiler.costs import cost
from pipecut.compiler.cut import Cut, cut
from pipecut.compiler.emit import write_folder
from pipecut.compiler.graph import Graph
from pipecut.compiler.job import Job, read_job
from pipecut.compiler.manifest import manifest, predict
from pipecut.compiler.partition import partition
from pipecut.compiler.schedules import ORDERS, in_flight, lower
from pipecut.compiler.trace import trace
from pipecut.errors import PipecutError, UserFileError
from pipecut.runtime.plan import PlanFolder, read_plan
from pipecut.runtime.weights import weight_files

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What the command line may say over the job file. `time_limit` in seconds, `gap` relative."""

    stages: int | None = None
    microbatches: int | None = None
    schedule: str | None = None
    solver: str = "highs"
    time_limit: float = 30.0
    gap: float = 1e-4


def compile(
    job_path: str | Path,
    cluster_name: str = "auto",
    output: str | Path = "plan",
    options: Options | None = None,
    progress: Progress = lambda _: None,
) -> PlanFolder:
    """Compile a job for a cluster into a plan folder.

    Raises UserFileError or TraceError for the user's files, InfeasibleError when nothing fits.
    """
    options = options or Options()
    progress("reading the job and the cluster")
    job, cluster = read_job(Path(job_path)), read_cluster(cluster_name)
    stages, microbatch, microbatches = _sizes(job, cluster, options)
    job = job.with_microbatch(microbatch)
    schedule = options.schedule or job.spec.schedule

    progress("tracing the model")
    graph = trace(job)
    _check_weights(job, graph)
    progress(f"costing {len(graph.operators)} operators")
    costed = cost(graph, cluster, job.spec.precision, microbatch)
    progress(f"placing {len(graph.operators)} operators on {stages} stages")

    def flights(count: int) -> tuple[int, ...]:
        return in_flight(schedule, count, microbatches)

    told = constraints(job, graph, stages)
    solving = options.solver, options.time_limit, options.gap
    how = job.spec.optimizer, told, job.spec.recompute
    placement, cluster = partition(costed, cluster, *how, stages, flights, *solving)
    progress(f"scheduling {microbatches} microbatches, {schedule}")
    cuts = cut(graph, placement.stage_of, stages)
    orders = [ORDERS[schedule](s, stages, microbatches) for s in range(stages)]
    forward = {one.index for one in cuts if one.sends}
    backward = {one.index for one in cuts if any(graph.values[n].needs_grad for n in one.sends)}
    actions = lower(orders, forward, backward, tied=_tied(cuts))
    prediction = predict(costed, cluster, placement, cuts, actions)
    progress("writing and checking the plan")
    facts = manifest(job, cluster, costed, placement, cuts, schedule, prediction)
    write_folder(Path(output), facts, cuts, costed, placement, actions)
    return read_plan(Path(output))


def _check_weights(job: Job, graph: Graph) -> None:
    """A missing tensor is told now, not when the ranks start."""
    if job.spec.weights is None:
        return
    path = job.folder / job.spec.weights
    try:
        names = weight_files(path)
    except (PipecutError, OSError, SafetensorError) as error:
        raise UserFileError(f"{job.path}: weights: {error}") from None
    missing = [p.names[0] for p in graph.parameters if not any(name in names for name in p.names)]
    if missing:
        raise UserFileError(f"{job.path}: weights: {path} has no '{missing[0]}' ({len(missing)} parameters are missing)")


def _tied(cuts: tuple[Cut, ...]) -> bool:
    held = [parameter.value for one in cuts for parameter in one.parameters if parameter.trainable]
    return len(held) > len(set(held))


def _sizes(job: Job, cluster: Cluster, options: Options) -> tuple[int, int, int]:
    """Stages, samples a microbatch, microbatches."""
    spec = job.spec
    total = spec.batch.global_
    stages = options.stages or spec.stages or (len(cluster.devices) if cluster.name != "auto" else _cores(cluster))
    if stages > len(cluster.devices):
        raise UserFileError(f"{stages} stages asked for, but cluster '{cluster.name}' has {len(cluster.devices)} devices")
    microbatch = spec.batch.microbatch
    if options.microbatches is not None:
        if options.microbatches < 1 or options.microbatches > total:
            raise UserFileError(f"--microbatches {options.microbatches}: must be 1 to the global batch, {total}")
        microbatch = -(-total // options.microbatches)
    return stages, microbatch, -(-total // microbatch)


def _cores(cluster: Cluster) -> int:
    return len(cluster.devices) if cluster.devices[0].type == "cuda" else os.cpu_count() or 1
