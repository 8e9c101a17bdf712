"""Job to graph: the model in training mode, and what runs in eval mode."""

import logging
from dataclasses import dataclass, replace

import torch

from pipecut.compiler.graph import Graph, Origin
from pipecut.compiler.inputs.job import Job
from pipecut.compiler.trace.backward.gradient_hooks import refuse_shared_hooks
from pipecut.compiler.trace.batch_of_one import alike_for_one
from pipecut.compiler.trace.data_sizes.of_example import with_shares
from pipecut.compiler.trace.export import EVERYTHING, Asked, Exported, export, export_evaluation
from pipecut.compiler.trace.following import FIXED, OF_ONE_SIZE, Open
from pipecut.compiler.trace.lower.dimensions import DependsOnData, NeedsFixedBatch
from pipecut.compiler.trace.lower.lowering import Lowered, lower
from pipecut.compiler.trace.lower.source import importable_path
from pipecut.compiler.trace.modes.evaluation import (
    only_dropout_differs,
    with_evaluation,
    without_dropout,
)
from pipecut.compiler.trace.opaque.chosen import opaque_notes
from pipecut.compiler.trace.opaque.untraceable import Untraceable, make_opaque
from pipecut.compiler.trace.rehearse.rehearsal import rehearse
from pipecut.compiler.trace.requirements import checked
from pipecut.compiler.trace.stamp.stamped import NotEqualAfterAll
from pipecut.errors import PipecutError, TraceError, UserFileError
from pipecut.model.unsplit import WithLoss

log = logging.getLogger("pipecut")

OWN_MODULE = "or put these lines into a module of their own, which then runs as it is"


def trace(job: Job) -> Graph:
    """Trace the job's model. Raises TraceError or UserFileError."""
    # The user's code may set another.
    surrounding = torch.get_default_dtype()
    try:
        graph = _with_opaque_modules(job)
        default_dtype = str(torch.get_default_dtype()).removeprefix("torch.")
        return replace(graph, default_dtype=default_dtype, origin=_origin(job))
    finally:
        torch.set_default_dtype(surrounding)


def _with_opaque_modules(job: Job) -> Graph:
    """Where a module cannot be traced, it becomes opaque, or the one around it.

    Where that leaves the whole model, sizes that depend on data are those of the example batch.
    """
    asked, first = job, None
    while True:
        try:
            graph = _both_modes(job)
            return replace(
                graph, notes=(*graph.notes, *opaque_notes(graph, job.opaque, job.opaque_patterns))
            )
        except Untraceable as error:
            first = first or error
            wider = make_opaque(job, error)
            if wider is None:
                return _of_example_batch(*_blocking(asked, first, job, error))
            log.debug("%s cannot be traced, so it is opaque: %s", error.module, error)
            job = wider
        except UserFileError as error:
            if first is None:
                raise
            # It keeps something of a batch, say, that no other size fits.
            log.debug("the model does not run with opaque modules: %s", error)
            return _of_example_batch(asked, first)


def _blocking(
    asked: Job, first: Untraceable, last: Job, error: Untraceable
) -> tuple[Job, Untraceable]:
    """The job that is refused, and why: at first, or the last one, with modules made opaque."""
    if isinstance(first.__cause__, DependsOnData) or error is first:
        return asked, first
    if not error.module:
        return last, error
    both = Untraceable(f"{first}; nor can it run as it is: {error}", first.module)
    both.__cause__ = first.__cause__
    return asked, both


def _of_example_batch(job: Job, refused: Untraceable) -> Graph:
    """The graph for sizes of the example batch. Raises `refused` where these do not help."""
    cause = refused.__cause__
    fails_in_torch = cause is not None and not isinstance(cause.__cause__, PipecutError | None)
    if not refused.module and fails_in_torch and job.spec.model.opaque != "never":
        raise TraceError(f"{refused}; {OWN_MODULE}") from refused
    if not isinstance(cause, DependsOnData):
        raise refused
    log.debug("taking values of the example batch: %s", refused)
    try:
        return _both_modes(job, by_example=True)
    except Untraceable:
        raise TraceError(f"{refused}; {OWN_MODULE}") from refused


def _origin(job: Job) -> Origin:
    model = job.spec.model
    return Origin(model.factory, model.args, job.spec.seed, job.spec.precision)


@dataclass(frozen=True)
class _Traced:
    """`not_one` says why no microbatch may have one sample; "" where it may."""

    exported: Exported
    lowered: Lowered
    not_one: str = ""


def _both_modes(job: Job, by_example: bool = False) -> Graph:
    traced = _for_every_microbatch(job, by_example)
    exported, lowered = traced.exported, traced.lowered
    batch = exported.batch
    training = checked(with_shares(lowered.training, batch.samples, batch.tensors))
    refuse_shared_hooks(training, exported.model.hooked)
    training = replace(training, rehearsal=rehearse(exported, training))
    if traced.not_one:
        note = f"a microbatch needs two samples or more: {traced.not_one}"
        training = replace(training, least_samples=2, notes=(*training.notes, note))
    # What an opaque module does in eval mode, its trace does not tell.
    same = not exported.model.opaque.paths and not exported.reads.differs
    if same and only_dropout_differs(lowered.operators, exported.reads.dropouts):
        return with_evaluation(training, without_dropout(lowered.everything))
    refused = ""
    for sizes in dict.fromkeys((exported.open, Open(exported.open.batch, False), FIXED)):
        try:
            evaluation = _evaluation(job, exported, sizes)
            if isinstance(evaluation, Graph):
                return with_evaluation(training, evaluation)
            refused = refused or evaluation
        except TraceError as error:
            refused = refused or str(error)
    why = f"the model cannot be traced in eval mode: {refused}"
    return replace(training, outputs=(), refused=why)


def _evaluation(
    job: Job, exported: Exported, sizes: Open, whole: bool = False, by_example: bool = False
) -> Graph | str:
    """The graph of eval mode; the reason where there is none. Raises TraceError."""
    evaluated = export_evaluation(job, exported, sizes, whole, by_example)
    if not isinstance(evaluated, Exported):
        return evaluated
    try:
        return lower(evaluated, job.microbatch).everything
    except NotEqualAfterAll as difference:
        log.debug("tracing every layer: %s", difference)
        return _evaluation(job, exported, sizes, True, by_example)
    except DependsOnData:
        if by_example:
            raise
        return _evaluation(job, exported, sizes, whole, by_example=True)


def _for_every_microbatch(job: Job, by_example: bool) -> _Traced:
    """In training mode, so that the batch's last microbatch, too, does what the model does."""
    size, total = job.microbatch, job.spec.batch.global_
    # For batches of any size, where the model and stage code allow that.
    traced = _trace(job, by_example=by_example)
    exported = traced.exported
    if not (exported.dynamic and exported.choices):
        return traced
    needed = 1 in (size, total % size)
    file, _, line = exported.choices[0].rpartition(":")
    place = f"{importable_path(file)}:{line}"
    difference = f"with one sample the model does something else (at {place})"
    asked = Asked(OF_ONE_SIZE, difference)
    one = job.with_microbatch(1)
    try:
        of_one = _trace(one, asked, model=exported.model, by_example=by_example)
    except TraceError:
        if needed:
            raise
        return replace(traced, not_one=difference)
    any_size = traced.lowered if size == 1 else lower(exported, 1)
    if alike_for_one(any_size.training, of_one.lowered.training):
        return traced
    if size == 1:
        return of_one
    if not needed:
        return replace(traced, not_one=difference)
    raise TraceError(
        f"the last microbatch of {total} samples in {size}s has only one sample, "
        f"and {difference}; choose batch.global or batch.microbatch so that none is left by itself"
    )


def _trace(
    job: Job,
    asked: Asked = EVERYTHING,
    whole: bool = False,
    model: WithLoss | None = None,
    by_example: bool = False,
) -> _Traced:
    """`whole`: every layer is traced, since some cannot be proven equal to others.

    `by_example`: the example batch tells values that the plan must have.
    """
    exported = export(job, asked, whole, model, by_example)
    try:
        return _Traced(exported, lower(exported, job.microbatch))
    except NotEqualAfterAll as difference:
        log.debug("tracing every layer: %s", difference)
        return _trace(job, asked, True, exported.model, by_example)
    except DependsOnData as error:
        if by_example:
            raise
        log.debug("taking values of the example batch: %s", error)
        return _trace(job, asked, whole, exported.model, by_example=True)
    except NeedsFixedBatch as error:
        if exported.open == FIXED:
            raise
        return _trace(job, asked.after(exported.open, str(error)), by_example=by_example)
