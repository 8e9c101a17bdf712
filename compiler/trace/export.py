"""Job to exported program: build the model on meta, make its parameters fake, run torch.export over it."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass, field, replace

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, ShapeEnv
from torch.nn.modules.batchnorm import _BatchNorm

from pipecut.compiler.inputs.job import Job
from pipecut.compiler.trace.batch import ExampleBatch, example_batch
from pipecut.compiler.trace.batch_of_one import noting_choices
from pipecut.compiler.trace.modes.mode_reads import ModeReads, watched_mode
from pipecut.compiler.trace.watch.beyond_graph import (
    inference_mode_as_no_grad,
    refuse_hooks,
    refuse_scripted,
    refused_backwards,
)
from pipecut.compiler.trace.watch.eager_paths import eager_paths, without_checkpoints
from pipecut.compiler.trace.watch.known_constants import KnownConstants
from pipecut.compiler.trace.watch.module_state import ModuleState
from pipecut.compiler.trace.watch.randomness import only_operators_draw
from pipecut.errors import PipecutError, TraceError
from pipecut.model.build import build_on_meta
from pipecut.model.functions import calling, find_function, user_frame
from pipecut.model.precision import cast_model
from pipecut.model.shared_memory import buffers_that_share
from pipecut.model.unsplit import WithLoss, names_needed, names_taken

log = logging.getLogger("pipecut")


@dataclass(frozen=True)
class Exported:
    """The program, the model and the batch it was traced from; `notes` are for the plan.

    The program's batch inputs come in the order of the batch's tensors, under names of our own: any name is fine for a user.
    `left_out` has results of the model that are no tensors, with the reason; `reads` says who asked for the mode; `choices` are
    places where the model does something else with a batch of one sample.
    """

    program: ExportedProgram
    model: WithLoss
    batch: ExampleBatch
    dynamic: bool
    notes: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    reads: ModeReads = field(default_factory=lambda: ModeReads(differs=True))
    choices: tuple[str, ...] = ()


def export(job: Job, fixed_because: str = "") -> Exported:
    """Trace for a batch of any size, or where the model does not allow that, for that of the job's microbatch alone.

    `fixed_because` says why only the latter is tried. Raises TraceError or UserFileError.
    """
    model = _model(job)
    refuse_scripted(model.model)
    refuse_hooks(model.model)
    model = _faked(model)
    error: BaseException | None = None
    if not fixed_because:
        # A batch of one is indistinguishable from a broadcast dimension while tracing.
        batch = example_batch(job, max(job.microbatch, 2))
        check_names(model, batch, job)
        with watched_mode(model) as reads, noting_choices() as choices:
            program, error = _traced(model, batch, True, reads)
        if program is not None:
            left_out = dict(model.left_out.now)
            return Exported(program, model, batch, True, (), left_out, reads, tuple(choices))
        fixed_because = _first_line(error)
    batch = example_batch(job, job.microbatch)
    with watched_mode(model) as reads:
        program, fixed_error = _traced(model, batch, False, reads)
    if program is None:
        raise _averages_all(model, error or fixed_error) or _explained(error or fixed_error)
    note = (
        f"the model fixes its batch size, so this plan takes that microbatch only ({fixed_because})"
    )
    return Exported(program, model, batch, False, (note,), dict(model.left_out.now), reads)


def export_evaluation(job: Job, exported: Exported, dynamic: bool) -> Exported | str:
    """The same model in eval mode, in which it may have no loss; the reason where it cannot be traced."""
    model, batch = exported.model, exported.batch
    if exported.dynamic and not dynamic:
        batch = example_batch(job, job.microbatch)
    model.eval()
    first: BaseException | None = None
    try:
        for model.has_loss in (True, False):
            try:
                program, error = _traced(model, batch, dynamic, ModeReads())
            except TraceError as failed:
                program, error = None, failed
            if program is not None:
                left_out = dict(model.left_out.now)
                return replace(
                    exported,
                    program=program,
                    batch=batch,
                    dynamic=dynamic,
                    notes=(),
                    left_out=left_out,
                )
            first = first or error
    finally:
        model.has_loss = True
        model.train()
    return str(first) if isinstance(first, TraceError) else str(_explained(first))


def _model(job: Job) -> WithLoss:
    spec = job.spec
    factory = find_function(spec.model.factory, job.folders, str(job.path))
    with calling(spec.model.factory):
        model = build_on_meta(lambda: factory(**spec.model.args), spec.seed)
    if not isinstance(model, torch.nn.Module):
        raise TraceError(
            f"{spec.model.factory} returned {type(model).__name__}; it must return a torch.nn.Module"
        )
    for name, buffer in model.named_buffers():
        if buffer.is_meta and buffer.numel():
            raise TraceError(
                f"buffer '{name}' is on meta: it has no value; create it on the CPU in the module's __init__"
            )
    sharing = tuple(buffers_that_share(model))
    loss = find_function(spec.loss, job.folders, str(job.path)) if spec.loss else None
    wrapped = WithLoss(cast_model(model, spec.precision), loss).train()
    wrapped.traced, wrapped.sharing_buffers = True, sharing
    return wrapped


def check_names(model: WithLoss, batch: ExampleBatch, job: Job) -> None:
    """Raises TraceError where the batch lacks what the model's forward needs, or has what nothing takes."""
    given = {*batch.tensors, *batch.constants}
    taken, needed = names_taken(model.model), names_needed(model.model)
    lacking = [name for name in needed if name not in given]
    if lacking:
        raise TraceError(
            f"the model's forward needs '{lacking[0]}', which {job.spec.inputs} does not give; add it there"
        )
    extra = sorted(given - taken) if taken is not None and model.loss is None else []
    if extra:
        known = ", ".join(sorted(taken or ()))
        raise TraceError(
            f"{job.spec.inputs} gives '{extra[0]}', which the model's forward does not take (it takes {known}); "
            "leave it out, or name a function that uses it with loss: in the job file"
        )


def _traced(
    model: WithLoss, batch: ExampleBatch, dynamic: bool, reads: ModeReads
) -> tuple[ExportedProgram | None, BaseException | None]:
    """The program, or the first error of all ways to trace it; `reads` counts those of the last trace."""
    model.names = {f"input_{number}": name for number, name in enumerate(batch.tensors)}
    model.constants = dict(batch.constants)
    tensors = {own: batch.tensors[name] for own, name in model.names.items()}
    any_size = Dim("batch", min=1)
    sizes = {
        own: None if name in batch.whole else {0: any_size} for own, name in model.names.items()
    }
    first: BaseException | None = None
    state = ModuleState(model.model)
    model.inside = state.watched
    shapes = (sizes,) if dynamic else None

    def exported() -> ExportedProgram:
        reads.dropouts = 0
        return torch.export.export(model, (tensors,), dynamic_shapes=shapes, strict=False)

    for model.around in (eager_paths, KnownConstants, nullcontext):
        try:
            with _quiet(), only_operators_draw(), without_checkpoints(), _beyond_refused(model):
                program = exported()
                while state.again:
                    program = exported()
                return program, None
        except PipecutError:
            raise
        except (Exception, SystemExit) as error:
            log.debug("export failed", exc_info=True)
            first = first or error
    return None, first


def _averages_all(model: WithLoss, error: BaseException | None) -> TraceError | None:
    """What to say of a batch norm that weighs each batch by their number so far, which is a tensor's value."""
    at = user_frame(error) if error is not None else None
    for name, module in model.model.named_modules():
        batch_norm = (
            isinstance(module, _BatchNorm) and module.training and module.track_running_stats
        )
        if (
            batch_norm
            and module.momentum is None
            and isinstance(error, GuardOnDataDependentSymNode)
        ):
            told = TraceError(
                f"'{name}' ({type(module).__name__}) has momentum=None, which weighs each batch by the number of batches so far"
                f"{f' (at {at})' if at else ''}, and a plan holds numbers only; give it a momentum, such as 0.1"
            )
            told.__cause__ = error
            return told
    return None


@contextmanager
def _beyond_refused(model: WithLoss) -> Iterator[None]:
    with refused_backwards(model), inference_mode_as_no_grad():
        yield


def _explained(error: BaseException | None) -> TraceError:
    assert error is not None
    at = user_frame(error)
    where = f" (at {at})" if at else ""
    if isinstance(error, GuardOnDataDependentSymNode):
        told = TraceError(
            f"the model chooses what to do by a tensor's value{where}, and a plan holds one way only; "
            "write the choice with torch.where, or take it out of forward"
        )
    else:
        told = TraceError(f"torch.export cannot trace the model: {_first_line(error)}{where}")
    told.__cause__ = error
    return told


@contextmanager
def _quiet() -> Iterator[None]:
    """torch.export logs, and prints, the whole graph when it fails; the error says what is needed."""
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _faked(model: WithLoss) -> WithLoss:
    """Parameters from meta to fake tensors on the CPU, beside the real buffers: one device, no storage.

    On meta itself a constant that the model makes on a parameter's device would lose its value.
    """
    mode = FakeTensorMode(shape_env=ShapeEnv(tracked_fakes=[]), allow_non_fake_inputs=True)
    known: dict[int, torch.nn.Parameter] = {}
    with mode:
        for module in model.modules():
            for name, old in module._parameters.items():
                if old is not None and id(old) not in known:
                    fake = torch.empty_strided(
                        old.shape, old.stride(), dtype=old.dtype, device="cpu"
                    )
                    known[id(old)] = torch.nn.Parameter(fake, requires_grad=old.requires_grad)
                if old is not None:
                    module._parameters[name] = known[id(old)]
    return model


def _first_line(error: BaseException | None) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
