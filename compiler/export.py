"""Job to exported program: build the model on meta, make its parameters fake, run torch.export over it."""

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, ShapeEnv

import pipecut
from pipecut.compiler.as_in_training import as_in_training, without_checkpoints
from pipecut.compiler.constants import KnownConstants
from pipecut.compiler.job import Job
from pipecut.compiler.randomness import only_operators_draw
from pipecut.errors import PipecutError, TraceError
from pipecut.runtime.init import build_on_meta
from pipecut.runtime.precision import cast_inputs, cast_model
from pipecut.runtime.unsplit import WithLoss
from pipecut.runtime.userfunction import find_function

log = logging.getLogger("pipecut")
# Where a frame of a traceback is not the user's code: these packages, wherever they are installed.
NOT_THE_USERS = tuple(str(Path(package).parent) + os.sep for package in (pipecut.__file__, torch.__file__))


def export(job: Job) -> tuple[ExportedProgram, WithLoss, bool, tuple[str, ...]]:
    """The program, the model it was traced from, whether its batch is dynamic, and notes for the plan.

    Raises TraceError or UserFileError.
    """
    model, samples = _model_and_samples(job)
    program, dynamic, notes = _export(model, samples)
    return program, model, dynamic, notes


def _model_and_samples(job: Job) -> tuple[WithLoss, dict[str, torch.Tensor]]:
    spec = job.spec
    factory = find_function(spec.model.factory, job.folders, str(job.path))
    try:
        model = build_on_meta(lambda: factory(**spec.model.args), spec.seed)
    except PipecutError:
        raise
    except Exception as error:
        raise TraceError(f"{spec.model.factory} failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, torch.nn.Module):
        raise TraceError(f"{spec.model.factory} returned {type(model).__name__}; it must return a torch.nn.Module")
    for name, buffer in model.named_buffers():
        if buffer.is_meta and buffer.numel():
            raise TraceError(f"buffer '{name}' is on meta: it has no value; create it on the CPU in the module's __init__")
    inputs = find_function(spec.inputs, job.folders, str(job.path))
    # A batch of one is indistinguishable from a broadcast dimension while tracing.
    samples = inputs(max(spec.batch.microbatch, 2))
    if not isinstance(samples, dict) or not all(isinstance(t, torch.Tensor) for t in samples.values()) or not samples:
        raise TraceError(f"{spec.inputs} must return a dict of tensors, dimension 0 the sample")
    loss = find_function(spec.loss, job.folders, str(job.path)) if spec.loss else None
    wrapped = WithLoss(cast_model(model, spec.precision), loss).train()
    wrapped.traced = True
    # The tracer takes one tensor under two names for one input.
    return wrapped, {k: t.clone() for k, t in cast_inputs(samples, spec.precision).items()}


def _export(model: WithLoss, samples: dict[str, torch.Tensor]) -> tuple[ExportedProgram, bool, tuple[str, ...]]:
    model = _faked(model)
    batch = Dim("batch", min=1)
    dynamic = ({name: {0: batch} if tensor.dim() else None for name, tensor in samples.items()},)
    first: Exception | None = None
    for shapes in (dynamic, None):
        for model.around in (as_in_training, KnownConstants, nullcontext):
            try:
                with _quiet(), only_operators_draw(), without_checkpoints():
                    program = torch.export.export(model, (samples,), dynamic_shapes=shapes, strict=False)
            except PipecutError:
                raise
            except Exception as error:
                log.debug("export failed", exc_info=True)
                first = first or error
                continue
            if shapes is None:
                note = f"the model fixes its batch size, so this plan takes that microbatch only ({_first_line(first)})"
                return program, False, (note,)
            return program, True, ()
    assert first is not None
    where = _user_frame(first)
    if isinstance(first, GuardOnDataDependentSymNode):
        raise TraceError(
            f"the model chooses what to do by a tensor's value{where}, and a plan holds one way only; "
            "write the choice with torch.where, or take it out of forward"
        ) from first
    raise TraceError(f"torch.export cannot trace the model: {_first_line(first)}{where}") from first


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
                    fake = torch.empty_strided(old.shape, old.stride(), dtype=old.dtype, device="cpu")
                    known[id(old)] = torch.nn.Parameter(fake, requires_grad=old.requires_grad)
                if old is not None:
                    module._parameters[name] = known[id(old)]
    return model


def _first_line(error: Exception | None) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _user_frame(error: Exception) -> str:
    found, walk = "", error.__traceback__
    while walk is not None:
        path = walk.tb_frame.f_code.co_filename
        if not path.startswith(NOT_THE_USERS):
            found = f" (at {path}:{walk.tb_lineno})"
        walk = walk.tb_next
    return found
