"""What the limits cost: the best candidates are placed again with one more device, a tenth more

memory, or links that are twice as fast.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from pipecut.compiler.inputs.auto import AUTO
from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.inputs.cluster_schema import Link
from pipecut.compiler.search.candidates import candidates
from pipecut.compiler.search.sizes import SearchSpace
from pipecut.compiler.search.trial import Sensitivity, Setting, Trial, attempt, bounded

# Placed again: so many of the best, and of those that memory forbade.
AGAIN = 2
# Candidates for one more device, in the order of their bounds.
WIDER = 3


def sensitivities(
    space: SearchSpace,
    trials: Sequence[Trial],
    setting: Setting,
    progress: Callable[[str], None],
) -> tuple[Sensitivity, ...]:
    """The best step without each limit."""
    cluster = setting.cluster
    retried = _to_retry(trials)
    wider = _wider(space, trials[0], setting)
    settings = (
        ("one more device", one_more_device(cluster, space.devices), wider),
        ("10% more memory", more_memory(cluster), retried),
        ("twice the bandwidth of links", faster_links(cluster), retried),
    )
    result = []
    for limit, relaxed, retrials in settings:
        progress(f"pricing {limit}")
        attempts = [attempt(t, replace(setting, cluster=relaxed)) for t in dict.fromkeys(retrials)]
        steps = [trial.step_seconds for trial in attempts if trial.step_seconds is not None]
        result.append(Sensitivity(limit, min(steps, default=None)))
    return tuple(result)


def more_memory(cluster: Cluster) -> Cluster:
    """Every device with a tenth more memory."""
    devices = (replace(d, memory=d.memory * 11 // 10) for d in cluster.devices)
    return replace(cluster, devices=tuple(devices))


def faster_links(cluster: Cluster) -> Cluster:
    """All links, and the network, with twice the bandwidth."""
    network = _twice(cluster.network) if cluster.network else None
    return replace(cluster, inside=tuple(map(_twice, cluster.inside)), network=network)


def one_more_device(cluster: Cluster, devices: int) -> Cluster:
    """The devices that may be used, and the last of them again."""
    used = cluster.devices[:devices]
    return replace(cluster, devices=(*used, used[-1]))


def _twice(link: Link) -> Link:
    return link.model_copy(update={"bandwidth": 2 * link.bandwidth})


def _to_retry(trials: Sequence[Trial]) -> list[Trial]:
    """The best trials, and the best of those that more memory may allow."""
    placed = [trial for trial in trials if trial.step_seconds is not None]
    forbidden = [trial for trial in trials if trial.short_of_memory]
    return placed[:AGAIN] + forbidden[:AGAIN]


def _wider(space: SearchSpace, best: Trial, setting: Setting) -> list[Trial]:
    """The best candidate's microbatch and schedule on more devices, the most promising first."""
    sizes = best.candidate
    larger = replace(
        space,
        devices=space.devices + 1,
        schedule=sizes.schedule,
        microbatch=sizes.microbatch,
    )
    counts = (
        AUTO if space.stages is AUTO else space.stages + space.stages_per_rank,
        sizes.stages + space.stages_per_rank,
    )
    trials = [
        bounded(setting, candidate)
        for stages in counts
        for candidate in candidates(replace(larger, stages=stages))
        if candidate.devices > sizes.devices
    ]
    return sorted(trials, key=lambda trial: trial.bound)[:WIDER]
