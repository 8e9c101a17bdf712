"""Job and traced graph -> what is known of whether they compute the same.

The model itself, with the values that training begins with, runs beside its graph: loss, every
gradient and every buffer of two batches, between which the parameters change. So what a trace does
not see shows: Python state, values that became constants, gradients that are lost.
"""

import logging
import time
from collections.abc import Callable, Mapping

import torch

from pipecut.compiler.compare.graph_run import REMEDY
from pipecut.compiler.compare.layers import compare_layers
from pipecut.compiler.compare.limits import RunSize, size_to_run, why_too_large
from pipecut.compiler.compare.model_run import CannotRun, running_model, training_terms
from pipecut.compiler.compare.side_by_side import Difference, SideBySide
from pipecut.compiler.graph import Graph
from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.inputs.job import Job
from pipecut.compiler.trace.batch import ExampleBatch, example_batch
from pipecut.device.types import type_of
from pipecut.errors import TraceError
from pipecut.model.comparison import TOLERANCE
from pipecut.plan.schema import TRUSTED, TraceComparison
from pipecut.quantities import counted, show_seconds

log = logging.getLogger("pipecut")

Progress = Callable[[str], None]
# Of the two batches; others than the job's own, which are small numbers.
SEEDS = (10_001, 10_002)
CALLS = ("first", "second")


def compare(
    job: Job,
    graph: Graph,
    trust: bool = False,
    progress: Progress = lambda _: None,
    cluster: Cluster | None = None,
) -> TraceComparison:
    """Run the model beside its graph where it is small enough; `trust` leaves it out.

    `progress` is told what it came to and took. `cluster` is where stages will run.

    Raises TraceError where they differ, with the operator and its line where that is known, and
    where both fail.
    """
    if trust:
        return TraceComparison(how=TRUSTED)
    begin = time.process_time()
    devices = () if cluster is None else cluster.devices
    on_host = cluster is not None and all(type_of(device.type).of_host for device in devices)
    size = size_to_run(graph, job.microbatch)
    if size is None:
        lines = compare_layers(job, graph)
        if lines:
            progress(f"{'; '.join(lines)}, in {show_seconds(time.process_time() - begin)}")
        why = f"too large to run while compiling: {why_too_large(graph)}"
        return TraceComparison(how="; ".join((why, *lines, _rehearsed(graph))))
    with training_terms(getattr(torch, graph.default_dtype)):
        try:
            compared = _compared(SideBySide(job, graph, on_host), graph, size)
        except CannotRun as reason:
            log.debug("not compared", exc_info=True)
            compared = TraceComparison(how=str(reason))
    progress(f"{compared}, in {show_seconds(time.process_time() - begin)}")
    return compared


def _rehearsed(graph: Graph) -> str:
    if graph.rehearsal:
        return f"its forward cannot run twice on fake tensors: {graph.rehearsal}"
    return "its forward does the same twice on fake tensors"


def _compared(both: SideBySide, graph: Graph, size: RunSize) -> TraceComparison:
    """Raises TraceError, and CannotRun where the model cannot run."""
    job = both.job
    # The last batch is shorter, where lengths are left open.
    lengths = (size.lengths, size.shorter(graph))
    for seed, at in zip(SEEDS, lengths, strict=True):
        difference = both.step(_batch(job, seed, size.samples, at))
        if difference is not None:
            place = both.first_difference()
            raise TraceError(_text(difference, place, TOLERANCE[job.spec.precision]))
    gradients = counted(sum(p.trainable for p in graph.parameters), "gradient")
    buffers = counted(sum(1 for _ in both.model.model.buffers()), "buffer")
    how = f"loss, {gradients} and {buffers} of {len(SEEDS)} batches {size.reduced}".rstrip()
    return TraceComparison(compared=True, how=how)


def _batch(job: Job, seed: int, samples: int, lengths: Mapping[str, int]) -> ExampleBatch:
    torch.manual_seed(seed)
    with running_model():
        return example_batch(job, samples, lengths)


def _text(difference: Difference, place: str, tolerance: float) -> str:
    where = (
        f"in forward first at {place}"
        if place
        else "though forward does the same: something changes gradients on their way back"
    )
    return (
        f"the traced graph computes something else than the model: at the "
        f"{CALLS[difference.batch]} call {difference.tensor} differs by {difference.value:.1e} of "
        f"its norm (tolerance {tolerance:g}), {where}; {REMEDY}"
    )
