"""Which stages, replicas, microbatch and schedule make the shortest step of the global batch.

Candidates are tried in the order of what each cannot beat, until that is above the best step found:

    step >= W / (1 - (1 - 1/m)^p)

for W seconds of work a microbatch on the fastest devices, m microbatches and p stages of t[k] seconds. Stage k is busy for
m t[k], and idle until one microbatch has gone forward through the stages before it, and after its last until that has gone
back: step >= m t[k] + t[1] + ... + t[k-1] for every k; the t of sum W that make the largest of these least make all equal.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from pipecut.compiler.candidate import Candidate
from pipecut.compiler.costs.rebatch import with_batch
from pipecut.compiler.costs.roofline import CostedGraph, cost
from pipecut.compiler.graph import Graph
from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.inputs.job import Job
from pipecut.compiler.inputs.units import show_bytes, show_seconds
from pipecut.compiler.partition.coarsen.parameter_bytes import OptimizerSpec, fixed_bytes
from pipecut.compiler.partition.constraints import placement_rules
from pipecut.compiler.partition.partition import blocks_for, place_quickly
from pipecut.compiler.predict.step import schedule
from pipecut.compiler.profile.measured_costs import Known
from pipecut.compiler.schedules.registry import SCHEDULES, SPLIT
from pipecut.compiler.search.sizes import SEARCHED, SearchSpace, candidates
from pipecut.compiler.trace.lower import trace
from pipecut.errors import InfeasibleError, UserFileError

Progress = Callable[[str], None]
# Other schedules fell short of their prediction by up to a tenth beside 1F1B (benchmarks/steps/engine.py).
MARGIN = 0.12


@dataclass(frozen=True)
class Trial:
    """A candidate, the seconds it cannot beat, and its predicted step where it was placed; `why` says what became of it."""

    candidate: Candidate
    bound: float
    step_seconds: float | None = None
    bubble: float | None = None
    recomputing: int = 0
    why: str = ""
    short_of_memory: bool = False


@dataclass(frozen=True)
class Sensitivity:
    """What a limit costs: the best step found without it."""

    limit: str
    step_seconds: float | None


class Search:
    """Candidates of one job on one cluster, and the costs of each microbatch size, which are found once."""

    def __init__(
        self, job: Job, cluster: Cluster, graph: Graph, microbatch: int, known: Known | None = None
    ) -> None:
        self.job, self.cluster, self.known = job, cluster, known or Known()
        self.graphs = {microbatch: graph}
        self.first = microbatch
        self.costed: dict[int, CostedGraph] = {}
        # Device kinds whose costs are measured, by microbatch.
        self.measured: dict[int, tuple[str, ...]] = {}

    def run(self, asked: SearchSpace, progress: Progress) -> list[Trial]:
        """All candidates, the best first. Raises UserFileError when what was asked leaves none."""
        found = candidates(asked)
        if not found:
            raise UserFileError(
                f"no microbatch and number of replicas divide the global batch of {asked.total} over {asked.devices} devices; "
                "change batch.global, or give data_parallel or batch.microbatch"
            )
        bounded = sorted(
            (Trial(one, self._bound(one)) for one in found),
            key=lambda tried: (tried.bound, tried.candidate.schedule),
        )
        best: Trial | None = None
        results = []
        for number, tried in enumerate(bounded):
            if (
                best is not None
                and best.step_seconds is not None
                and tried.bound >= best.step_seconds
            ):
                results.append(replace(tried, why=f"cannot beat {show_seconds(tried.bound)}"))
                continue
            progress(f"trying {number + 1} of {len(bounded)}: {describe(tried.candidate)}")
            judged = self.place(tried, self.cluster)
            if judged.step_seconds is not None and (
                best is None or judged.step_seconds < (best.step_seconds or 0.0)
            ):
                best = judged
            results.append(judged)
        results += self._other_schedules(asked, best, progress) if best is not None else []
        return sorted(results, key=_rank)

    def _other_schedules(self, asked: SearchSpace, best: Trial, progress: Progress) -> list[Trial]:
        """The best sizes with the schedules that are not searched, where the job leaves the schedule open."""
        found, spec, sizes = [], self.job.spec, best.candidate
        for name, kind in SCHEDULES.items() if asked.schedule is None and sizes.ranks > 1 else ():
            stages_per_rank = kind.stages_per_rank or spec.stages_per_rank
            one = replace(
                sizes,
                schedule=name,
                stages_per_rank=stages_per_rank,
                stages=sizes.ranks * stages_per_rank,
            )
            allowed = asked.stages in (None, one.stages) and not (
                spec.compile == "inductor" and name in SPLIT
            )
            if name not in SEARCHED and allowed:
                progress(f"trying {describe(one)}")
                found.append(self.place(Trial(one, self._bound(one)), self.cluster))
        return found

    def prices(
        self, asked: SearchSpace, tried: list[Trial], progress: Progress
    ) -> list[Sensitivity]:
        """The best step with one more device, a tenth more memory, twice the links: the best candidates are placed again."""
        # Those that memory forbade are what more memory may give.
        again = [one for one in tried if one.step_seconds is not None][:2] + [
            one for one in tried if one.short_of_memory
        ][:2]
        devices, links = self.cluster.devices, self.cluster.inside
        roomy = replace(
            self.cluster, devices=tuple(replace(d, memory=d.memory * 11 // 10) for d in devices)
        )
        network = self.cluster.network
        faster = replace(
            self.cluster,
            inside=tuple(
                link.model_copy(update={"bandwidth": 2 * link.bandwidth}) for link in links
            ),
            network=network.model_copy(update={"bandwidth": 2 * network.bandwidth})
            if network
            else None,
        )
        larger = replace(
            self.cluster, devices=(*devices[: asked.devices], devices[asked.devices - 1])
        )
        best = tried[0].candidate
        more = replace(
            asked, devices=asked.devices + 1, schedule=best.schedule, microbatch=best.microbatch
        )
        wider = [
            Trial(one, self._bound(one))
            for stages in (
                None if asked.stages is None else asked.stages + asked.stages_per_rank,
                best.stages + asked.stages_per_rank,
            )
            for one in candidates(replace(more, stages=stages))
            if one.devices > best.devices
        ]
        result = []
        for name, cluster, which in (
            ("one more device", larger, sorted(wider, key=lambda one: one.bound)[:3]),
            ("10% more memory", roomy, again),
            ("twice the bandwidth of links", faster, again),
        ):
            progress(f"pricing {name}")
            steps = [self.place(one, cluster).step_seconds for one in dict.fromkeys(which)]
            result.append(
                Sensitivity(name, min((step for step in steps if step is not None), default=None))
            )
        return result

    def costs(self, microbatch: int) -> CostedGraph:
        """The graph of a microbatch size, costed."""
        if microbatch not in self.costed:
            if microbatch not in self.graphs:
                base = self.graphs[self.first]
                again = (
                    trace(self.job.with_microbatch(microbatch))
                    if not base.dynamic
                    else with_batch(base, microbatch)
                )
                self.graphs[microbatch] = again
            graph = self.graphs[microbatch]
            kinds = sorted({device.kind for device in self.cluster.devices})
            measured = self.known.seconds(graph, microbatch, kinds)
            self.measured[microbatch] = tuple(sorted(measured))
            self.costed[microbatch] = cost(
                graph, self.cluster, self.job.spec.precision, microbatch, measured
            )
        return self.costed[microbatch]

    def _bound(self, one: Candidate) -> float:
        costed = self.costs(one.microbatch)
        kinds = {device.kind for device in self.cluster.devices}
        work = sum(min(costed.seconds(i, k) for k in kinds) for i in range(len(costed.costs)))
        if one.schedule not in SEARCHED:
            # Several stages a device, and weights that come later, fill what is idle otherwise.
            return work * one.microbatches / one.ranks
        return work / (1 - (1 - 1 / one.microbatches) ** one.stages)

    def place(self, tried: Trial, cluster: Cluster) -> Trial:
        """A candidate with its predicted step, or why it has none."""
        one, costed, spec = tried.candidate, self.costs(tried.candidate.microbatch), self.job.spec
        how = OptimizerSpec.of(spec, one.replicas)
        needed = sum(fixed_bytes(p, how) for p in costed.graph.parameters)
        room = sum(
            device.memory - cluster.reserve
            for device in cluster.devices[: one.devices : one.replicas]
        )
        if needed > room:
            why = f"memory: parameters alone need {show_bytes(needed)} of {show_bytes(room)}"
            return replace(tried, why=why, short_of_memory=True)
        if one.replicas > 1 and writes_buffers(costed.graph):
            return replace(
                tried, why="the model changes buffers in its forward: replicas would drift apart"
            )
        try:
            constraints = placement_rules(self.job, costed.graph, one.stages)
        except UserFileError as error:
            return replace(tried, why=str(error).rsplit("placement: ", 1)[-1])
        try:
            blocks = blocks_for(costed, cluster, spec, constraints, one)
            placed = place_quickly(blocks, cluster, spec.precision, one)
        except InfeasibleError:
            placed = None
        if placed is None:
            return replace(
                tried, why="memory: no placement was found that fits", short_of_memory=True
            )
        found = schedule(costed, placed.cluster, placed.placement, one)
        return replace(
            tried,
            step_seconds=found.step_seconds,
            bubble=found.bubble,
            recomputing=sum(placed.placement.recompute),
            why="placed",
        )


def _rank(tried: Trial) -> tuple[bool, float, float]:
    """The shortest step first; a schedule that is not searched only where it is shorter by more than it may fall short."""
    margin = 1.0 if tried.candidate.schedule in SEARCHED else 1.0 + MARGIN
    return tried.step_seconds is None, (tried.step_seconds or 0.0) * margin, tried.bound


def writes_buffers(graph: Graph) -> bool:
    """Whether a forward writes to a buffer that is part of the model's state."""
    held = {buffer.value for buffer in graph.buffers}
    roots = graph.roots()
    return any(
        roots.get(name, name) in held for operator in graph.operators for name in operator.writes
    )


def describe(one: Candidate) -> str:
    """`16 stages x 4 replicas, 32 microbatches of 2, 1f1b`."""
    stages = f"{one.stages} stages" + (f" on {one.ranks} ranks" if one.stages_per_rank > 1 else "")
    return f"{stages} x {one.replicas} replicas, {one.microbatches} microbatches of {one.microbatch}, {one.schedule}"
