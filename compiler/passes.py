"""The passes, in order."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError

from pipecut.compiler.candidate import Candidate
from pipecut.compiler.emit.folder import write_folder
from pipecut.compiler.fit import Problem, fit
from pipecut.compiler.graph import Graph
from pipecut.compiler.inputs.cluster import Cluster, kind_here, positions, read_cluster, without
from pipecut.compiler.inputs.document import place_of_key
from pipecut.compiler.inputs.job import Job, read_job
from pipecut.compiler.partition.constraints import placement_rules
from pipecut.compiler.partition.partition import blocks_for
from pipecut.compiler.partition.place import SolverOptions
from pipecut.compiler.profile.background import background_load
from pipecut.compiler.profile.measured_costs import measured_costs
from pipecut.compiler.profile.profile import Profiled
from pipecut.compiler.profile.profile import profile as profile_graph
from pipecut.compiler.profile.store import default_path
from pipecut.compiler.schedules.registry import SCHEDULES, SPLIT
from pipecut.compiler.search.search import Search, Sensitivity, Trial, describe, writes_buffers
from pipecut.compiler.search.sizes import SearchSpace, SizeOverrides, candidates, resolve_sizes
from pipecut.compiler.trace.batch import example_batch
from pipecut.compiler.trace.lower import trace
from pipecut.compiler.trace.randomness import refuse_randomness
from pipecut.device.memory import keep_memory
from pipecut.device.types import type_of
from pipecut.errors import InfeasibleError, PipecutError, UserFileError
from pipecut.model.weights import check_files
from pipecut.plan.folder import PlanFolder, read_plan
from pipecut.plan.schema import Source, StageTensor

Progress = Callable[[str], None]
# Called with what is done, and of how many.
ProfileProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """What the command line may say: sizes over the job file's, whether to explain the choice, how to solve.

    `costs` are measured ones where the profile has them (auto), or not at all (roofline), or nothing else (profile), or those
    of a run's report (measured:FILE). `lost` devices, counted as in the cluster file, are left out.
    """

    sizes: SizeOverrides = field(default_factory=SizeOverrides)
    explain: bool = False
    costs: str = "auto"
    profile: Path | None = None
    solving: SolverOptions = field(default_factory=SolverOptions)
    lost: tuple[int, ...] = ()


@dataclass(frozen=True)
class Compiled:
    """The plan as written, and where a search was made or asked for, the candidates and the prices of the limits."""

    folder: PlanFolder
    tried: tuple[Trial, ...] = ()
    prices: tuple[Sensitivity, ...] = ()


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
    return compile_and_explain(
        job_path, cluster_name, output, options or Options(), progress
    ).folder


def compile_and_explain(
    job_path: str | Path,
    cluster_name: str,
    output: str | Path,
    options: Options,
    progress: Progress,
) -> Compiled:
    """As `compile`, with what the search found."""
    progress("reading the job and the cluster")
    job, whole = read_job(Path(job_path)), read_cluster(cluster_name)
    cluster = without(whole, options.lost)
    asked = resolve_sizes(job.spec, job.path, _devices(cluster, job, options), options.sizes)
    first = asked.microbatch or min((one.microbatch for one in candidates(asked)), default=1)
    progress("tracing the model")
    job = job.with_microbatch(first)
    graph = trace(job)
    _check_weights(job, graph)
    known = measured_costs(options.costs, options.profile)
    _refuse(
        job,
        graph,
        asked.replicas or 1,
        asked.schedule,
        any(type_of(device.type).unseeded_recurrence for device in cluster.devices),
    )
    search = Search(job, cluster, graph, first, known)
    # What was not measured is told before the search, where only one size is asked for.
    if asked.microbatch:
        search.costs(first)
        _check_measured(job, cluster, options, first, search.measured[first])
    tried = search.run(asked, progress) if options.explain or not asked.fixed else []
    chosen = _chosen(asked, tried)
    prices = search.prices(asked, tried, progress) if options.explain else []
    if chosen.microbatch != first:
        progress(f"tracing the model for a microbatch of {chosen.microbatch}")
        job = job.with_microbatch(chosen.microbatch)
        graph = trace(job)
        search = Search(job, cluster, graph, chosen.microbatch, known)
    progress(f"costing {len(graph.operators)} operators")
    costed = search.costs(chosen.microbatch)
    measured = search.measured[chosen.microbatch]
    _check_measured(job, cluster, options, chosen.microbatch, measured)
    notes = [
        f"costs: measured on {', '.join(measured)}"
        if measured
        else "costs: roofline estimates; pipecut profile measures them"
    ]
    if job.spec.shard_optimizer and chosen.replicas == 1:
        notes.append("shard_optimizer: true divides nothing here, since each stage has one replica")
    notes += (
        ["times and memory are those of eager stages"] if job.spec.compile == "inductor" else []
    )
    notes += (
        [f"chosen of {len(tried)} candidates: {describe(chosen)}"]
        if tried and not asked.fixed
        else []
    )
    constraints = placement_rules(job, graph, chosen.stages)
    blocks = blocks_for(costed, cluster, job.spec, constraints, chosen)
    problem = Problem(job, costed, cluster, blocks, chosen, options.solving)
    fitted = fit(problem, notes, progress)
    draft = fitted.draft
    source = Source(
        job=str(job.path.resolve()),
        cluster=str(Path(cluster_name).resolve()) if Path(cluster_name).exists() else cluster_name,
        available=_devices(whole, job, options) if whole.name == "auto" else len(whole.devices),
        devices=positions(whole, draft.cluster, options.lost)[: chosen.devices],
        lost=list(options.lost),
        nodes=[device.node for device in draft.cluster.devices[: chosen.devices]],
        names={device.kind: list(device.names) for device in draft.cluster.devices},
    )
    progress("writing and checking the plan")
    plan = fitted.plan.model_copy(update={"source": source})
    scheduled = draft.scheduled
    write_folder(Path(output), plan, scheduled.cuts, costed, draft.placement, scheduled.actions)
    return Compiled(read_plan(Path(output)), tuple(tried), tuple(prices))


def profile_job(
    job_path: Path,
    device: torch.device,
    microbatch: int | None,
    stored: Path | None,
    progress: ProfileProgress,
    ranks: int = 1,
) -> Profiled:
    """Measure a job's operators and layers here, with `ranks` processes at work. Raises UserFileError or TraceError."""
    keep_memory(device)
    job = read_job(job_path)
    size = microbatch or job.spec.batch.microbatch or 1
    job = job.with_microbatch(size)
    progress("tracing the model", 0, 1)
    graph = trace(job)
    batch = example_batch(job, size).tensors
    kind = kind_here(type_of(device))
    with background_load(job.path, size, ranks - 1):
        return profile_graph(graph, batch, size, kind, device, stored or default_path(), progress)


def _chosen(asked: SearchSpace, tried: list[Trial]) -> Candidate:
    if asked.fixed:
        # What does not fit is told by the partitioner, with the least that would.
        return candidates(asked)[0]
    if tried[0].step_seconds is None:
        reasons = "; ".join(f"{describe(one.candidate)}: {one.why}" for one in tried[:3])
        raise InfeasibleError(
            f"none of {len(tried)} candidates fits: {reasons}; give more devices, or a smaller model"
        )
    return tried[0].candidate


def _check_measured(
    job: Job, cluster: Cluster, options: Options, microbatch: int, measured: tuple[str, ...]
) -> None:
    """Raises UserFileError where measured costs are asked for and some device has none."""
    lacking = sorted({device.kind for device in cluster.devices} - set(measured))
    if options.costs not in ("auto", "roofline") and lacking:
        remedy = (
            f"run pipecut profile {job.path} there"
            if options.costs == "profile"
            else "give a report of this job and batch"
        )
        what = f"no measurements on {', '.join(lacking)} for a microbatch of {microbatch}"
        raise UserFileError(f"--costs {options.costs}: {what}; {remedy}")


def _refuse(job: Job, graph: Graph, replicas: int, schedule: str | None, unseeded: bool) -> None:
    """Raises UserFileError for what the model does that the replicas, schedule or compiled stages asked for cannot.

    Before the search, which itself leaves out what cannot be where it may choose.
    """
    if replicas > 1 and writes_buffers(graph):
        raise UserFileError(
            f"{job.path}: data_parallel {replicas}: the model changes buffers in its forward, as BatchNorm does, "
            "and replicas would drift apart; use data_parallel: 1"
        )
    compiled = None
    if job.spec.compile == "inductor":
        line, column = place_of_key(job.path, "compile")
        compiled = f"{job.path}:{line}:{column}"
    if compiled is not None and schedule in SPLIT:
        raise UserFileError(
            f"{compiled}: {schedule} takes backward apart, which compiled stages do not allow; "
            "use compile: eager, or another schedule"
        )
    refuse_randomness(graph, compiled, unseeded)


def _check_weights(job: Job, graph: Graph) -> None:
    """What is missing, too much or of another kind is told now, not when the ranks start."""
    if job.spec.weights is None:
        return
    parameters = [
        StageTensor(names=list(p.names), shape=list(p.shape), dtype=p.dtype)
        for p in graph.parameters
    ]
    buffers = [
        StageTensor(
            names=list(b.names),
            shape=list(b.data.shape),
            dtype=str(b.data.dtype).removeprefix("torch."),
        )
        for b in graph.buffers
    ]
    try:
        check_files(job.folder / job.spec.weights, parameters, buffers)
    except (PipecutError, OSError, SafetensorError) as error:
        raise UserFileError(f"{job.path}: weights: {error}") from None


def _devices(cluster: Cluster, job: Job, options: Options) -> int:
    """Devices to use: all, but of this machine's CPU as many as it has cores, unless more stages are asked for."""
    if cluster.name != "auto" or not type_of(cluster.devices[0].type).of_host:
        return len(cluster.devices)
    stages = options.sizes.stages or job.spec.stages or 1
    replicas = options.sizes.replicas or job.spec.data_parallel or 1
    schedule = options.sizes.schedule or job.spec.schedule
    stages_per_rank = (
        1
        if schedule == "auto"
        else SCHEDULES[schedule].stages_per_rank
        or options.sizes.stages_per_rank
        or job.spec.stages_per_rank
    )
    return min(len(cluster.devices), max(os.cpu_count() or 1, stages // stages_per_rank * replicas))
