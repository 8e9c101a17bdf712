"""One candidate of a search: a bound on its step, and its predicted step once it is placed.

No step is shorter than

    W / (1 - (1 - 1/m)^p)

for W seconds of work per microbatch on the fastest devices, m microbatches and p stages of t[k]
seconds. Stage k is busy for m t[k], and idle until one microbatch has gone forward through the
stages before it, and after its last until that has gone back: step >= m t[k] + t[1] + ... + t[k-1]
for every k. The t of sum W that make the largest of these least make all of them equal.
"""

from dataclasses import dataclass, replace

from pipecut.compiler.candidate import Candidate
from pipecut.compiler.costs.roofline import CostedGraph
from pipecut.compiler.graphs import Estimates
from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.inputs.job import Job
from pipecut.compiler.partition.constraints import placement_rules
from pipecut.compiler.partition.partition import Placed, coarsen_for, place_quickly
from pipecut.compiler.predict.step import schedule
from pipecut.compiler.refusals import Proposal, parameters_too_large, refusal_of_sizes
from pipecut.compiler.search.candidates import SEARCHED
from pipecut.errors import InfeasibleError
from pipecut.quantities import show_seconds


@dataclass(frozen=True)
class Setting:
    """What candidates are tried with."""

    job: Job
    cluster: Cluster
    costs: Estimates


@dataclass(frozen=True)
class Trial:
    """A candidate, a bound on its step in seconds, and its predicted step if it was placed.

    `why` says what became of it.
    """

    candidate: Candidate
    bound: float
    step_seconds: float | None = None
    bubble: float | None = None
    recomputing: int = 0
    why: str = ""
    short_of_memory: bool = False

    def __str__(self) -> str:
        """`2 stages x 1 replica, 4 microbatches of 2, 1f1b: step 1.2 ms, bubble 25%, placed`."""
        parts = [] if self.why == "" else [self.why]
        if self.step_seconds is None:
            parts = parts or [f"at best {show_seconds(self.bound)}, not tried"]
        else:
            bubble = [] if self.bubble is None else [f"bubble {self.bubble:.0%}"]
            parts = [f"step {show_seconds(self.step_seconds)}", *bubble, *parts]
        return f"{self.candidate}: {', '.join(parts)}"


@dataclass(frozen=True)
class Sensitivity:
    """What a limit costs: the best step found without it, None where nothing fits."""

    limit: str
    step_seconds: float | None

    def __str__(self) -> str:
        """`one more device: step 1.1 ms`."""
        if self.step_seconds is None:
            return f"{self.limit}: nothing that fits was found"
        return f"{self.limit}: step {show_seconds(self.step_seconds)}"


def lower_bound(setting: Setting, candidate: Candidate) -> float:
    """Seconds that no placement's step is below, by its work."""
    costed = setting.costs.estimate(candidate.microbatch)
    kinds = {device.kind for device in setting.cluster.devices}
    work = sum(
        min(costed.seconds(index, kind) for kind in kinds) for index in range(len(costed.costs))
    )
    if candidate.schedule not in SEARCHED:
        # Several stages per device, and weights that come later, fill what would be idle.
        return work * candidate.microbatches / candidate.ranks
    return work / (1 - (1 - 1 / candidate.microbatches) ** candidate.stages)


def bounded(setting: Setting, candidate: Candidate) -> Trial:
    """The candidate before it is tried."""
    return Trial(candidate, lower_bound(setting, candidate))


def attempt(trial: Trial, setting: Setting) -> Trial:
    """The trial with its predicted step, or with why it has none."""
    candidate, job = trial.candidate, setting.job
    costed = setting.costs.estimate(candidate.microbatch)
    proposal = Proposal.of(job, costed.graph, setting.cluster, setting.costs, candidate)
    too_large = parameters_too_large(costed.graph, setting.cluster, job.spec, candidate)
    if too_large is not None:
        return replace(trial, why=too_large, short_of_memory=True)
    refusal = refusal_of_sizes(proposal)
    if refusal is not None:
        return replace(trial, why=refusal.why)
    placed = _place(setting, costed, candidate)
    if placed is None:
        why = "memory: no placement was found that fits"
        return replace(trial, why=why, short_of_memory=True)
    scheduled = schedule(costed, placed.cluster, placed.placement, candidate)
    return replace(
        trial,
        step_seconds=scheduled.step_seconds,
        bubble=scheduled.bubble,
        recomputing=sum(placed.placement.recompute),
        why="placed",
    )


def _place(setting: Setting, costed: CostedGraph, candidate: Candidate) -> Placed | None:
    job, cluster = setting.job, setting.cluster
    constraints = placement_rules(job, costed.graph, candidate.stages)
    try:
        blocks = coarsen_for(costed, cluster, job.spec, constraints, candidate)
    except InfeasibleError:
        return None
    return place_quickly(blocks, cluster, job.spec.precision, candidate)
