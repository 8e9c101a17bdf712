"""What depends on the microbatch: the traced graph, and its costs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pipecut.compiler.costs.rebatch import with_batch
from pipecut.compiler.costs.roofline import CostedGraph, cost
from pipecut.compiler.graph import Graph
from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.inputs.job import Job
from pipecut.compiler.profile.measured_costs import MeasuredCosts
from pipecut.compiler.profile.pace import are_alike, paces_here
from pipecut.compiler.profile.scaled import Seconds as OperatorSeconds
from pipecut.compiler.profile.scaled import pace_when_measured
from pipecut.compiler.trace.trace import trace

Progress = Callable[[str], None]


class Estimates(Protocol):
    """Costs of each microbatch, close enough to compare candidates."""

    measured: MeasuredCosts

    def estimate(self, microbatch: int) -> CostedGraph:
        """The costed graph of a microbatch."""

    def unmeasured_kinds(self, microbatch: int) -> tuple[str, ...]:
        """Device kinds on which some operator of a microbatch was not measured."""


class Graphs:
    """microbatch -> Graph, each traced once."""

    def __init__(self, job: Job, first: int, progress: Progress = lambda _: None) -> None:
        self.job, self.progress = job, progress
        self._traced: dict[int, Graph] = {}
        self.first = self[first]

    def __getitem__(self, microbatch: int) -> Graph:
        """Raises TraceError or UserFileError."""
        if microbatch not in self._traced:
            self.progress(f"tracing the model for a microbatch of {microbatch}")
            self._traced[microbatch] = trace(self.job.with_microbatch(microbatch))
            for line in self._traced[microbatch].stamped:
                self.progress(line)
        return self._traced[microbatch]

    def estimate(self, microbatch: int) -> Graph:
        """The traced graph, or the first one resized: close enough to compare candidates.

        A graph whose batch is fixed cannot be resized, so it is traced.
        """
        if microbatch in self._traced or not self.first.dynamic:
            return self[microbatch]
        return with_batch(self.first, microbatch)


@dataclass(frozen=True)
class OtherPace:
    """A kind of device of this machine, and how many times as long it took when it was measured."""

    kind: str
    factor: float


class Costs:
    """microbatch -> CostedGraph, each computed once."""

    def __init__(
        self,
        graphs: Graphs,
        cluster: Cluster,
        measured: MeasuredCosts,
        progress: Progress = lambda _: None,
    ) -> None:
        self.graphs, self.cluster, self.measured = graphs, cluster, measured
        self.progress = progress
        self._costed: dict[int, CostedGraph] = {}
        self._estimated: dict[int, CostedGraph] = {}
        self._measured: dict[int, Mapping[str, OperatorSeconds]] = {}

    def __getitem__(self, microbatch: int) -> CostedGraph:
        """The costs of the traced graph."""
        if microbatch not in self._costed:
            graph = self.graphs[microbatch]
            self.progress(f"costing {len(graph.operators):,} operators")
            seconds = self._measured_seconds(microbatch)
            self._costed[microbatch] = self._cost(graph, microbatch, seconds)
        return self._costed[microbatch]

    def estimate(self, microbatch: int) -> CostedGraph:
        """The costs of a graph that may be a resized one: see `Graphs.estimate`."""
        graph = self.graphs.estimate(microbatch)
        if graph is self.graphs.first:
            return self[microbatch]
        if microbatch not in self._estimated:
            seconds = self.measured.seconds(graph, microbatch, self._kinds())
            self._estimated[microbatch] = self._cost(graph, microbatch, seconds)
        return self._estimated[microbatch]

    def measured_kinds(self, microbatch: int) -> tuple[str, ...]:
        """Device kinds on which every operator of the traced graph was measured, sorted."""
        return tuple(sorted(self._measured_seconds(microbatch)))

    def other_paces(self, microbatch: int) -> list[OtherPace]:
        """Devices of this machine whose measurements it would not make now."""
        path, kinds = self.measured.profile, self.measured_kinds(microbatch)
        if path is None or not kinds:
            return []
        graph, others = self.graphs[microbatch], []
        for kind, pace in paces_here(kinds).items():
            before = pace_when_measured(graph, microbatch, kind, path)
            if before is not None and not are_alike(before, pace):
                others.append(OtherPace(kind, before / pace))
        return others

    def unmeasured_kinds(self, microbatch: int) -> tuple[str, ...]:
        """The cluster's other device kinds, sorted."""
        return tuple(sorted({*self._kinds()} - {*self.measured_kinds(microbatch)}))

    def _kinds(self) -> list[str]:
        return sorted({device.kind for device in self.cluster.devices})

    def _measured_seconds(self, microbatch: int) -> Mapping[str, OperatorSeconds]:
        """Of the traced graph, by device kind; looked up once, since it reads the whole profile."""
        if microbatch not in self._measured:
            graph = self.graphs[microbatch]
            self._measured[microbatch] = self.measured.seconds(graph, microbatch, self._kinds())
        return self._measured[microbatch]

    def _cost(
        self, graph: Graph, microbatch: int, seconds: Mapping[str, OperatorSeconds]
    ) -> CostedGraph:
        precision = self.graphs.job.spec.precision
        return cost(graph, self.cluster, precision, microbatch, seconds)
