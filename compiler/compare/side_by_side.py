"""A model and its graph, run on the same batches, and where they differ."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from pipecut.compiler.compare.first_difference import first_difference
from pipecut.compiler.compare.graph_run import GraphRun
from pipecut.compiler.compare.model_run import (
    CannotRun,
    ModelRun,
    Tensors,
    model_with_values,
    running_model,
)
from pipecut.compiler.graph import Graph
from pipecut.compiler.inputs.job import Job
from pipecut.compiler.stages.cut import opaque_modules
from pipecut.compiler.trace.batch import ExampleBatch
from pipecut.errors import TraceError
from pipecut.model.comparison import TOLERANCE, Comparing
from pipecut.model.functions import user_frame

# What parameters are multiplied with between two batches, as an optimizer changes them.
STEP_FACTOR = 1.01
# A tensor's difference is rounding up to so many times what the last bits of parameters make of it.
ROUNDINGS = 8.0
# In torch's words, where an operator is not there for a dtype on a type of device.
NO_KERNEL = "not implemented for"


@dataclass(frozen=True)
class Difference:
    """The tensor that differs most: `KIND/NAME`, by how much of its norm, at which batch."""

    tensor: str
    value: float
    batch: int = 0


class SideBySide:
    """Runs both, a batch after the other; parameters are changed before each but the first.

    `on_host`: stages will run on a CPU, too, so what has no kernel here has none there.
    """

    def __init__(self, job: Job, graph: Graph, on_host: bool = False) -> None:
        self.job, self.source, self.on_host = job, graph, on_host
        self.batches: list[ExampleBatch] = []
        with_loss = model_with_values(job)
        self.model = ModelRun(with_loss, job.spec.seed, opaque_modules(graph.operators))
        self.graph = GraphRun(graph, self.model.parameters(), job.spec.seed)

    def step(self, batch: ExampleBatch) -> Difference | None:
        """Forward and backward of both; what differs by more than rounding, if anything does.

        Raises CannotRun where the model does not run, TraceError where only the graph does not.
        """
        self._begin(batch)
        number, precision = len(self.batches) - 1, self.job.spec.precision
        try:
            expected = self.model.step(batch, number)
        except CannotRun as reason:
            self._refuse_failing(reason, batch, number)
            raise
        before = [buffer.clone() for buffer in self.graph.module.buffers()]
        tensors = self.graph.step(batch, number)
        difference = largest_difference(tensors, expected)
        if TOLERANCE[precision] < difference.value < math.inf:
            # The graph is nudged: a model may do something else at each call. So may a graph whose
            # operators are not all torch's, which rounding does not excuse.
            self._put_buffers(before)
            again = self.graph.step(batch, number)
            self._put_buffers(before)
            if largest_difference(again, tensors).value <= TOLERANCE[precision]:
                nudged = self.graph.step_nudged(batch, number, precision)
                difference = beyond_rounding(expected, tensors, nudged, TOLERANCE[precision])
        if difference.value <= TOLERANCE[precision]:
            return None
        return replace(difference, batch=number)

    def _refuse_failing(self, reason: CannotRun, batch: ExampleBatch, number: int) -> None:
        """Raises TraceError where the model fails, and what stages would run of it as well."""
        cause = reason.__cause__
        if cause is None or (not self.on_host and NO_KERNEL in str(cause)):
            return
        try:
            self.graph.step(batch, number)
        except TraceError:
            line = user_frame(cause)
            at = f" at {line}" if line else ""
            text = f"{type(cause).__name__}: {' '.join(str(cause).split())[:200]}"
            raise TraceError(
                f"the model fails on a batch of the job's inputs in {self.job.spec.precision}{at}, "
                f"and so would its stages: {text}; make it run there, or choose another precision; "
                "--trust-trace compiles it all the same"
            ) from cause

    def first_difference(self) -> str:
        """The first operator of the last batch's forward that the graph does not have; "" if all.

        Both begin again from the first batch.
        """
        again = SideBySide(self.job, self.source)
        for number, batch in enumerate(self.batches):
            again._begin(batch)
            if batch is not self.batches[-1]:
                again.model.step(batch, number)
                again.graph.step(batch, number)
        last = len(self.batches) - 1

        def forward_of_model() -> None:
            with running_model(), again.model.draws.at(1, last):
                again.model.forward(self.batches[-1])

        def forward_of_graph() -> None:
            with again.graph.draws.at(1, last):
                again.graph.forward(self.batches[-1])

        return first_difference(again.model.model, forward_of_model, forward_of_graph)

    def _begin(self, batch: ExampleBatch) -> None:
        if self.batches:
            with torch.no_grad():
                for parameter in self.model.model.parameters():
                    if parameter.is_floating_point() or parameter.is_complex():
                        parameter.mul_(STEP_FACTOR)
            self.graph.take_values(self.model.parameters())
        self.batches.append(batch)

    def _put_buffers(self, values: Sequence[torch.Tensor]) -> None:
        with torch.no_grad():
            for buffer, value in zip(self.graph.module.buffers(), values, strict=True):
                buffer.copy_(value)


def largest_difference(tensors: Mapping[str, torch.Tensor], expected: Tensors) -> Difference:
    """Between two runs; constants of a graph are no buffers of the model, and not compared."""
    comparing = Comparing()
    pairs = {n: t for n, t in tensors.items() if n in expected or not n.startswith("buffer/")}
    comparing.add(
        {name: _comparable(tensor, expected.get(name)) for name, tensor in pairs.items()},
        {name: _comparable(tensor, tensors.get(name)) for name, tensor in expected.items()},
    )
    for name in expected.keys() - tensors.keys():
        comparing.miss(name)
    return _largest(comparing)


def beyond_rounding(
    model: Tensors, graph: Tensors, nudged: Tensors, tolerance: float
) -> Difference:
    """The largest difference of a tensor that is not as far from its nudged self; 0 if none is."""
    comparing = Comparing(tolerance=tolerance, roundings=ROUNDINGS, most_rounding=math.inf)
    comparing.add(
        {name: _comparable(tensor, graph[name]) for name, tensor in model.items()},
        {name: _comparable(graph[name], tensor) for name, tensor in model.items()},
        {name: _comparable(nudged[name], graph[name]) for name in model},
    )
    return _largest(comparing)


def _largest(comparing: Comparing) -> Difference:
    differences = [Difference(f"{kind}/{d.name}", d.value) for kind, d in comparing.worst.items()]
    return max(differences, key=lambda difference: difference.value, default=Difference("", 0.0))


def _comparable(tensor: torch.Tensor, other: torch.Tensor | None) -> torch.Tensor:
    """A tensor without what is no number, or infinite, in both alike."""
    if other is None or not tensor.is_floating_point() or tensor.shape != other.shape:
        return tensor
    alike = (tensor.isnan() & other.isnan()) | (tensor.isinf() & (tensor == other))
    return tensor.masked_fill(alike, 0.0) if bool(alike.any()) else tensor
