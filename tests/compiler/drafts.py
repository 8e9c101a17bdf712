"""Drafts of the three golden models, made by the passes with estimated costs."""

from dataclasses import dataclass
from pathlib import Path

from pipecut.compiler.candidate import Candidate
from pipecut.compiler.costs.roofline import CostedGraph, cost
from pipecut.compiler.draft import Draft, draft_of
from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.inputs.cluster_file import read_cluster
from pipecut.compiler.inputs.job import Job, read_job
from pipecut.compiler.partition.constraints import placement_rules
from pipecut.compiler.partition.partition import coarsen_for, partition
from pipecut.compiler.partition.place import SolverOptions
from pipecut.compiler.predict.step import schedule
from pipecut.compiler.trace.trace import trace
from tests.models.golden import golden_job


@dataclass(frozen=True)
class Drafted:
    """A golden model placed on two slow devices."""

    job: Job
    cluster: Cluster
    costed: CostedGraph
    draft: Draft


def drafted(folder: Path, name: str, stages: int = 2, schedule_name: str = "1f1b") -> Drafted:
    """Trace, cost, place and schedule one of the golden models."""
    files = golden_job(folder, name, devices=stages)
    job, cluster = read_job(files.job).with_microbatch(2), read_cluster(str(files.cluster))
    sizes = Candidate(stages, 1, 2, 4, schedule_name)
    graph = trace(job)
    costed = cost(graph, cluster, job.spec.precision, 2)
    rules = placement_rules(job, graph, stages)
    blocks = coarsen_for(costed, cluster, job.spec, rules, sizes)
    placed = partition(blocks, cluster, job.spec.precision, sizes, SolverOptions())
    scheduled = schedule(costed, placed.cluster, placed.placement, sizes)
    return Drafted(job, cluster, costed, draft_of(graph, sizes, placed, scheduled))
