"""Job to exported program: torch.export over the model, for batches of any size where possible."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx._lazy_graph_module import _use_lazy_graph_module
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from pipecut.compiler.choices import Choice
from pipecut.compiler.inputs.job import Job
from pipecut.compiler.trace.batch import ExampleBatch, example_batch
from pipecut.compiler.trace.batch_of_one import noting_choices
from pipecut.compiler.trace.data_sizes.asked import AskedSize
from pipecut.compiler.trace.explain import explained
from pipecut.compiler.trace.following import (
    ANY,
    FIXED,
    Open,
    check_choices,
    named_symbols,
    noting_fixed,
    why,
)
from pipecut.compiler.trace.functions.calling import functions_as_operators
from pipecut.compiler.trace.lengths import SHORTEST
from pipecut.compiler.trace.modes.mode_reads import ModeReads, watched_mode
from pipecut.compiler.trace.opaque.untraceable import located, untraceable_in
from pipecut.compiler.trace.prepare import check_names, model_to_trace
from pipecut.compiler.trace.rehearse.python_state import put_back_after
from pipecut.compiler.trace.stamp.stamped import NOTHING_STAMPED, Stamped
from pipecut.compiler.trace.stamp.stamping import Stamping
from pipecut.compiler.trace.watch.beyond_graph import inference_mode_as_no_grad, past_autograd_seen
from pipecut.compiler.trace.watch.converted_modules import conversions_change_nothing
from pipecut.compiler.trace.watch.eager_paths import without_checkpoints
from pipecut.compiler.trace.watch.forward_hooks import forward_hooks_kept
from pipecut.compiler.trace.watch.module_state import ModuleState
from pipecut.compiler.trace.watch.randomness import (
    DrawnByHost,
    noting_who_draws,
    only_operators_draw,
)
from pipecut.compiler.trace.ways import ENTERS, Enter, ways
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
    `by_value` has the answers that the trace took where the model chooses by a tensor's value,
    `by_size` those where it chooses by a size that depends on data.
    `enter` is how the model could be traced.
    """

    program: ExportedProgram
    model: WithLoss
    batch: ExampleBatch
    notes: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    reads: ModeReads = field(default_factory=lambda: ModeReads(differs=True))
    choices: tuple[str, ...] = ()
    stamped: Stamped = NOTHING_STAMPED
    by_value: tuple[Choice, ...] = ()
    by_size: tuple[AskedSize, ...] = ()
    open: Open = FIXED
    enter: Enter = ENTERS[0]

    @property
    def dynamic(self) -> bool:
        """Whether a batch may have any number of samples."""
        return self.open.batch

    @property
    def lengths(self) -> dict[str, int]:
        """The longest of each length that is left open."""
        return dict(self.batch.lengths.longest) if self.open.lengths else {}

    @property
    def shortest(self) -> dict[str, int]:
        """The least of each length that is left open."""
        return {**dict.fromkeys(self.lengths, SHORTEST), **dict(self.open.shortest)}

    def length_names(self) -> dict[Any, str]:
        """The lengths that symbols of the program stand for."""
        return named_symbols(self.program, self.batch, self.lengths)


@dataclass(frozen=True)
class Asked:
    """What is tried in turn, and why no more than that, for the notes."""

    open: tuple[Open, ...] = ANY
    fixed_because: str = ""

    def after(self, failed: Open, because: str) -> "Asked":
        """What is left to try once a program that left so much open turned out to be no use."""
        behind = [(o.batch, o.lengths) for o in self.open].index((failed.batch, failed.lengths))
        return Asked(self.open[behind + 1 :], because)


EVERYTHING = Asked()


@dataclass(frozen=True)
class _Attempt:
    """The program with what it leaves open, or the error of the way that came furthest.

    That is the one after most `calls`. `why` says in a line why no more is left open.
    """

    program: ExportedProgram | None
    error: BaseException | None = None
    calls: int = 0
    stamped: Stamped = NOTHING_STAMPED
    by_value: tuple[Choice, ...] = ()
    by_size: tuple[AskedSize, ...] = ()
    open: Open = FIXED
    why: str = ""
    enter: Enter = ENTERS[0]

    def or_further(self, other: "_Attempt") -> "_Attempt":
        """The one of two failed attempts that came further."""
        return other if other.calls > self.calls else self


def export(
    job: Job,
    asked: Asked = EVERYTHING,
    whole: bool = False,
    model: WithLoss | None = None,
    by_example: bool = False,
) -> Exported:
    """Trace for batches of any size, or where that fails, with fewer sizes left open.

    `whole`: no layer is stamped. `model` is the job's where it was built for a trace before.
    `by_example`: the example batch tells values. Raises TraceError or UserFileError.
    """
    model = model_to_trace(job) if model is None else model
    try:
        return _export(job, asked, whole, model, by_example)
    except DrawnByHost as error:
        with noting_who_draws() as modules, suppress(TraceError):
            _export(job, asked, True, model, by_example)
        raise untraceable_in(error, model.model, modules) from error
    except TraceError as error:
        raise located(error, model.model) from error


def _export(job: Job, asked: Asked, whole: bool, model: WithLoss, by_example: bool) -> Exported:
    failed: _Attempt | None = None
    because = {"batch": asked.fixed_because, "lengths": asked.fixed_because}
    for sizes in asked.open:
        # A batch of one is indistinguishable from a broadcast dimension while tracing.
        batch = example_batch(job, max(job.microbatch, 2) if sizes.batch else job.microbatch)
        if sizes.lengths and not batch.lengths.longest:
            because["lengths"] = because["lengths"] or batch.lengths.refused
            continue
        _refuse_fixed_lengths(job, sizes, batch, failed, because["lengths"])
        check_names(model, batch, job.spec.inputs)
        with watched_mode(model) as reads, noting_choices(batch.samples) as choices:
            attempt = _attempt(model, batch, sizes, reads, whole, by_example)
        if attempt.program is not None:
            exported = _exported(attempt, model, batch, reads)
            notes = _notes(attempt.open, batch, because)
            return replace(exported, notes=notes, choices=tuple(choices) if sizes.batch else ())
        failed = attempt if failed is None else failed.or_further(attempt)
        # With fewer sizes open the reason is that of what was tried last with more.
        because = {size: attempt.why if getattr(sizes, size) else because[size] for size in because}
    assert failed is not None and failed.error is not None
    raise explained(failed.error, model)


def _exported(
    attempt: _Attempt, model: WithLoss, batch: ExampleBatch, reads: ModeReads
) -> Exported:
    """What a successful attempt traced."""
    assert attempt.program is not None
    return Exported(
        attempt.program,
        model,
        batch,
        left_out=dict(model.left_out.now),
        reads=reads,
        stamped=attempt.stamped,
        by_value=attempt.by_value,
        by_size=attempt.by_size,
        open=attempt.open,
        enter=attempt.enter,
    )


def _refuse_fixed_lengths(
    job: Job, sizes: Open, batch: ExampleBatch, failed: _Attempt | None, because: str
) -> None:
    """Raises TraceError where lengths are to be dynamic, and the model fixes them."""
    if job.spec.lengths == "dynamic" and not sizes.lengths and batch.lengths.longest:
        raise TraceError(
            f"lengths: dynamic: the model fixes its length ({because}); write lengths: fixed for "
            "batches of the longest only, or let the model follow its inputs' length"
        ) from (failed.error if failed is not None else None)


def _notes(sizes: Open, batch: ExampleBatch, because: dict[str, str]) -> tuple[str, ...]:
    """What is fixed that need not be, and why."""
    notes = [
        f"this plan takes a {length} of {least} or more: with less the model does something else"
        for length, least in sizes.shortest
    ]
    if not sizes.batch:
        notes.append(
            "the model fixes its batch size, so this plan takes that microbatch only "
            f"({because['batch']})"
        )
    longest = ", ".join(f"{name} {most}" for name, most in batch.lengths.longest.items())
    if not sizes.lengths and (longest or batch.lengths.refused):
        notes.append(
            f"this plan takes batches of {longest or 'one length'} only ({because['lengths']})"
        )
    return tuple(notes)


def export_evaluation(
    job: Job, exported: Exported, sizes: Open, whole: bool = False, by_example: bool = False
) -> Exported | str:
    """The model in eval mode, where it may have no loss; the reason where it cannot be traced."""
    model, batch = exported.model, exported.batch
    if exported.dynamic and not sizes.batch:
        batch = example_batch(job, job.microbatch)
    model.eval()
    error: BaseException | None = None
    try:
        for model.has_loss in (True, False):
            attempt = _attempt_evaluation(model, batch, sizes, whole, by_example, exported.enter)
            if attempt.program is not None:
                return replace(
                    exported,
                    program=attempt.program,
                    batch=batch,
                    open=attempt.open,
                    notes=(),
                    left_out=dict(model.left_out.now),
                    stamped=attempt.stamped,
                    by_value=attempt.by_value,
                    by_size=attempt.by_size,
                )
            error = error or attempt.error
    finally:
        model.has_loss = True
        model.train()
    assert error is not None
    return str(error if isinstance(error, TraceError) else explained(error, model))


def _attempt_evaluation(
    model: WithLoss,
    batch: ExampleBatch,
    sizes: Open,
    whole: bool,
    by_example: bool,
    first: Enter,
) -> _Attempt:
    try:
        return _attempt(model, batch, sizes, ModeReads(), whole, by_example, first)
    except TraceError as error:
        return _Attempt(None, error)


def _attempt(
    model: WithLoss,
    batch: ExampleBatch,
    sizes: Open,
    reads: ModeReads,
    whole: bool,
    by_example: bool,
    first: Enter = ENTERS[0],
) -> _Attempt:
    """Trace the model; `reads` counts the dropouts of the last trace. Raises PipecutError."""
    model.names = {f"input_{number}": name for number, name in enumerate(batch.tensors)}
    model.constants, model.whole = dict(batch.constants), batch.whole
    model.nesting = batch.nesting
    model.lengths = batch.lengths.places
    state = ModuleState(model.model)
    model.inside = state.watched
    furthest: _Attempt | None = None
    for way in ways(model, batch, by_example, first):
        model.around = way.around
        with noting_fixed() as fixed:
            try:
                with surroundings(model):
                    attempt = _traced(model, batch, sizes, reads, state, whole)
                choices = way.choices
                return replace(
                    attempt,
                    by_value=tuple(choices.made),
                    by_size=tuple(choices.of_sizes.made),
                    enter=way.enter,
                )
            except PipecutError:
                raise
            except (Exception, SystemExit) as failure:
                log.debug("export failed", exc_info=True)
                way.error = failure
                attempt = _Attempt(None, failure, way.choices.calls, why=why(failure, fixed))
                furthest = attempt if furthest is None else furthest.or_further(attempt)
    assert furthest is not None and furthest.error is not None
    longer = sizes.longer(furthest.error)
    if longer is not None:
        return _attempt(model, batch, longer, reads, whole, by_example, first)
    return furthest


def _traced(
    model: WithLoss,
    batch: ExampleBatch,
    sizes: Open,
    reads: ModeReads,
    state: ModuleState,
    whole: bool,
) -> _Attempt:
    """The program, its equal layers stamped where that may be. Raises what torch.export does."""
    tensors = {placeholder: batch.tensors[name] for placeholder, name in model.names.items()}
    by_name = sizes.shapes(batch)
    shapes = (
        None
        if by_name is None
        else ({placeholder: by_name[name] or None for placeholder, name in model.names.items()},)
    )

    def run_export() -> ExportedProgram:
        reads.dropouts = 0
        # Code of the graphs that torch makes on the way is not run, so it is not written.
        kept = put_back_after(model.model, model.loss)
        with _use_lazy_graph_module(True), forward_hooks_kept(model), kept:
            program = torch.export.export(model, (tensors,), dynamic_shapes=shapes, strict=False)
        if sizes.lengths:
            check_choices(program, batch)
        return program

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
                return _Attempt(program, stamped=stamped, open=sizes)
    program = run_export()
    while state.needs_another_trace:
        program = run_export()
    return _Attempt(program, open=sizes)


@contextmanager
def surroundings(model: WithLoss) -> Iterator[None]:
    """What holds while a model is traced: refusals, and what is patched."""
    with quiet(), only_operators_draw(), without_checkpoints(), conversions_change_nothing():
        with past_autograd_seen(), functions_as_operators(model), inference_mode_as_no_grad():
            with model.opaque.in_place(model):
                yield
