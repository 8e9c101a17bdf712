"""Job to exported program: torch.export over the model, for any batch size where possible."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch.export import Dim, ExportedProgram
from torch.fx._lazy_graph_module import _use_lazy_graph_module
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from pipecut.compiler.inputs.job import Job
from pipecut.compiler.trace.batch import ExampleBatch, example_batch
from pipecut.compiler.trace.batch_of_one import noting_choices
from pipecut.compiler.trace.explain import explained, first_line
from pipecut.compiler.trace.functions.calling import functions_as_operators
from pipecut.compiler.trace.modes.mode_reads import ModeReads, watched_mode
from pipecut.compiler.trace.prepare import check_names, model_to_trace
from pipecut.compiler.trace.stamp.stamped import NOTHING_STAMPED, Stamped
from pipecut.compiler.trace.stamp.stamping import Stamping
from pipecut.compiler.trace.watch.beyond_graph import inference_mode_as_no_grad, past_autograd_seen
from pipecut.compiler.trace.watch.choices import Choice
from pipecut.compiler.trace.watch.eager_paths import without_checkpoints
from pipecut.compiler.trace.watch.forward_hooks import forward_hooks_kept
from pipecut.compiler.trace.watch.module_state import ModuleState
from pipecut.compiler.trace.watch.randomness import only_operators_draw
from pipecut.compiler.trace.ways import ways
from pipecut.errors import PipecutError, TraceError
from pipecut.model.quiet_export import quiet
from pipecut.model.unsplit import WithLoss

log = logging.getLogger("pipecut")


@dataclass(frozen=True)
class Exported:
    """The program, the model and the batch it was traced from; `notes` are for the plan.

    The program's batch inputs stand in the order of the batch's tensors, under names of our own:
    so the user may choose any name.
    `left_out` maps results of the model that are no tensors to the reason.
    `reads` says who read the model's mode.
    `choices` are places where the model does something else with a batch of one sample.
    `stamped` says which layers were not traced, being equal to others.
    `by_value` has the answers that the trace took where the model chooses by a tensor's value.
    """

    program: ExportedProgram
    model: WithLoss
    batch: ExampleBatch
    dynamic: bool
    notes: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    reads: ModeReads = field(default_factory=lambda: ModeReads(differs=True))
    choices: tuple[str, ...] = ()
    stamped: Stamped = NOTHING_STAMPED
    by_value: tuple[Choice, ...] = ()


@dataclass(frozen=True)
class _Attempt:
    """The program, or the error of the way to trace it that came furthest: after most `calls`."""

    program: ExportedProgram | None
    error: BaseException | None = None
    calls: int = 0
    stamped: Stamped = NOTHING_STAMPED
    by_value: tuple[Choice, ...] = ()

    def or_further(self, other: "_Attempt") -> "_Attempt":
        """The one of two failed attempts that came further."""
        return other if other.calls > self.calls else self


def export(
    job: Job,
    fixed_because: str = "",
    whole: bool = False,
    model: WithLoss | None = None,
    by_example: bool = False,
) -> Exported:
    """Trace for a batch of any size, or where that fails, for the job's microbatch.

    `fixed_because` says why only the latter is tried. `whole`: no layer is stamped. `model` is the
    job's where it was built for a trace before. `by_example`: the example batch tells values.
    Raises TraceError or UserFileError.
    """
    model = model_to_trace(job) if model is None else model
    failed: _Attempt | None = None
    if not fixed_because:
        # A batch of one is indistinguishable from a broadcast dimension while tracing.
        batch = example_batch(job, max(job.microbatch, 2))
        check_names(model, batch, job.spec.inputs)
        with watched_mode(model) as reads, noting_choices() as choices:
            attempt = _attempt(model, batch, True, reads, whole, by_example)
        if attempt.program is not None:
            exported = _exported(attempt, model, batch, reads)
            return replace(exported, dynamic=True, choices=tuple(choices))
        assert attempt.error is not None
        failed, fixed_because = attempt, first_line(attempt.error)
    batch = example_batch(job, job.microbatch)
    with watched_mode(model) as reads:
        attempt = _attempt(model, batch, False, reads, whole, by_example)
    if attempt.program is None:
        error = (failed.or_further(attempt) if failed is not None else attempt).error
        assert error is not None
        raise explained(error, model)
    note = (
        f"the model fixes its batch size, so this plan takes that microbatch only ({fixed_because})"
    )
    return replace(_exported(attempt, model, batch, reads), notes=(note,))


def _exported(
    attempt: _Attempt, model: WithLoss, batch: ExampleBatch, reads: ModeReads
) -> Exported:
    """What a successful attempt for a fixed batch size traced."""
    assert attempt.program is not None
    return Exported(
        attempt.program,
        model,
        batch,
        dynamic=False,
        left_out=dict(model.left_out.now),
        reads=reads,
        stamped=attempt.stamped,
        by_value=attempt.by_value,
    )


def export_evaluation(
    job: Job, exported: Exported, dynamic: bool, whole: bool = False, by_example: bool = False
) -> Exported | str:
    """The model in eval mode, where it may have no loss; the reason where it cannot be traced."""
    model, batch = exported.model, exported.batch
    if exported.dynamic and not dynamic:
        batch = example_batch(job, job.microbatch)
    model.eval()
    error: BaseException | None = None
    try:
        for model.has_loss in (True, False):
            attempt = _attempt_evaluation(model, batch, dynamic, whole, by_example)
            if attempt.program is not None:
                return replace(
                    exported,
                    program=attempt.program,
                    batch=batch,
                    dynamic=dynamic,
                    notes=(),
                    left_out=dict(model.left_out.now),
                    stamped=attempt.stamped,
                    by_value=attempt.by_value,
                )
            error = error or attempt.error
    finally:
        model.has_loss = True
        model.train()
    assert error is not None
    return str(error if isinstance(error, TraceError) else explained(error, model))


def _attempt_evaluation(
    model: WithLoss, batch: ExampleBatch, dynamic: bool, whole: bool, by_example: bool
) -> _Attempt:
    try:
        return _attempt(model, batch, dynamic, ModeReads(), whole, by_example)
    except TraceError as error:
        return _Attempt(None, error)


def _attempt(
    model: WithLoss,
    batch: ExampleBatch,
    dynamic: bool,
    reads: ModeReads,
    whole: bool,
    by_example: bool,
) -> _Attempt:
    """Trace the model; `reads` counts the dropouts of the last trace. Raises PipecutError."""
    model.names = {f"input_{number}": name for number, name in enumerate(batch.tensors)}
    model.constants, model.whole = dict(batch.constants), batch.whole
    state = ModuleState(model.model)
    model.inside = state.watched
    furthest: _Attempt | None = None
    for way in ways(model, batch, by_example):
        model.around = way.around
        try:
            with _surroundings(model):
                attempt = _traced(model, batch, dynamic, reads, state, whole)
            return replace(attempt, by_value=tuple(way.choices.made))
        except PipecutError:
            raise
        except (Exception, SystemExit) as failure:
            log.debug("export failed", exc_info=True)
            way.error = failure
            attempt = _Attempt(None, failure, way.choices.calls)
            furthest = attempt if furthest is None else furthest.or_further(attempt)
    assert furthest is not None
    return furthest


def _traced(
    model: WithLoss,
    batch: ExampleBatch,
    dynamic: bool,
    reads: ModeReads,
    state: ModuleState,
    whole: bool,
) -> _Attempt:
    """The program, its equal layers stamped where that may be. Raises what torch.export does."""
    tensors = {placeholder: batch.tensors[name] for placeholder, name in model.names.items()}
    any_size = {0: Dim("batch", min=1)}
    sizes = {
        placeholder: None if name in batch.whole else any_size
        for placeholder, name in model.names.items()
    }

    def run_export() -> ExportedProgram:
        reads.dropouts = 0
        shapes = (sizes,) if dynamic else None
        # Code of the graphs that torch makes on the way is not run, so it is not written.
        with _use_lazy_graph_module(True), forward_hooks_kept(model):
            return torch.export.export(model, (tensors,), dynamic_shapes=shapes, strict=False)

    if not whole:
        stamping = Stamping(model.model, reads)
        try:
            with stamping.watched():
                program = run_export()
            stamped = stamping.stamped()
        except (Exception, SystemExit) as failure:
            # Whether values are known does not depend on stamping.
            if not stamping.has_stamped or isinstance(failure, GuardOnDataDependentSymNode):
                raise
            log.debug("tracing every layer", exc_info=True)
        else:
            if not state.needs_another_trace:
                return _Attempt(program, stamped=stamped)
    program = run_export()
    while state.needs_another_trace:
        program = run_export()
    return _Attempt(program)


@contextmanager
def _surroundings(model: WithLoss) -> Iterator[None]:
    """What holds while torch.export runs: refusals, and what is patched."""
    with quiet(), only_operators_draw(), without_checkpoints():
        with past_autograd_seen(), functions_as_operators(model), inference_mode_as_no_grad():
            with model.opaque.in_place(model):
                yield
