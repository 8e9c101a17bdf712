"""The job's model as it is traced: built without storage, its parameters fake tensors."""

from types import FunctionType

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from pipecut.compiler.inputs.job import Job
from pipecut.compiler.trace.backward.gradient_hooks import refuse_parameter_hooks
from pipecut.compiler.trace.batch import ExampleBatch
from pipecut.compiler.trace.opaque.chosen import chosen_modules
from pipecut.compiler.trace.opaque.learning import learnt_calls
from pipecut.compiler.trace.opaque.standing_in import StandingIn
from pipecut.compiler.trace.watch.beyond_graph import refuse_hooks, refuse_scripted
from pipecut.errors import TraceError
from pipecut.model.batch.nesting import nested
from pipecut.model.building.on_meta import build_on_meta
from pipecut.model.building.shared_memory import buffers_that_share
from pipecut.model.functions import calling, find_function
from pipecut.model.precision import cast_model
from pipecut.model.unsplit import Loss, WithLoss, names_needed, names_taken


def model_to_trace(job: Job) -> WithLoss:
    """The model in training mode, with its loss. Raises TraceError or UserFileError."""
    spec = job.spec
    model = _built(job)
    # Asked before the cast, which gives every buffer memory of its own.
    sharing = tuple(buffers_that_share(model))
    loss = find_function(spec.loss, job.folders, str(job.path)) if spec.loss else None
    with_loss = WithLoss(cast_model(model, spec.precision), _with_lines(loss)).train()
    with_loss.traced, with_loss.sharing_buffers = True, sharing
    refuse_scripted(with_loss.model)
    paths = chosen_modules(job, with_loss.model)
    refuse_hooks(with_loss.model, paths)
    with_loss.hooked = refuse_parameter_hooks(with_loss.model, paths)
    known = learnt_calls(job, with_loss, paths) if paths else {}
    modules = {path: with_loss.model.get_submodule(path) for path in paths}
    with_loss.opaque = StandingIn(modules, known)
    _make_parameters_fake(with_loss)
    return with_loss


def _with_lines(loss: Loss | None) -> Loss | None:
    """The same function under a name with which operators have its lines as their source.

    torch keeps the frames that are called forward, and no others.
    """
    if not isinstance(loss, FunctionType):
        return loss
    code = loss.__code__.replace(co_name="forward")
    same = FunctionType(code, loss.__globals__, loss.__name__, loss.__defaults__, loss.__closure__)
    same.__kwdefaults__, same.__module__ = loss.__kwdefaults__, loss.__module__
    same.__dict__ = loss.__dict__
    return same


def _built(job: Job) -> nn.Module:
    spec = job.spec.model
    factory = find_function(spec.factory, job.folders, str(job.path))
    with calling(spec.factory):
        model = build_on_meta(lambda: factory(**spec.args), job.spec.seed)
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise TraceError(f"{spec.factory} returned {kind}; it must return a torch.nn.Module")
    for name, buffer in model.named_buffers():
        if buffer.is_meta and buffer.numel():
            raise TraceError(
                f"buffer '{name}' is on meta: it has no value; "
                "create it on the CPU in the module's __init__"
            )
    return model


def _make_parameters_fake(model: nn.Module) -> None:
    """Parameters from meta to fake tensors on the CPU, beside the real buffers: no storage.

    On meta itself a constant that the model makes on a parameter's device would lose its value.
    """
    mode = FakeTensorMode(shape_env=ShapeEnv(tracked_fakes=[]), allow_non_fake_inputs=True)
    # A tied parameter is made once.
    fakes: dict[nn.Parameter, nn.Parameter] = {}
    with mode:
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is None:
                    continue
                if parameter not in fakes:
                    fakes[parameter] = _fake(parameter)
                module._parameters[name] = fakes[parameter]


def _fake(parameter: nn.Parameter) -> nn.Parameter:
    empty = torch.empty_strided(
        parameter.shape, parameter.stride(), dtype=parameter.dtype, device="cpu"
    )
    return nn.Parameter(empty, requires_grad=parameter.requires_grad)


def check_names(model: WithLoss, batch: ExampleBatch, inputs: str) -> None:
    """Raises TraceError where the batch lacks what forward needs, or has what nothing takes.

    `inputs` is the job's name of the function that made the batch.
    """
    available = set(nested(batch.nesting, {**batch.tensors, **batch.constants}))
    lacking = [name for name in names_needed(model.model) if name not in available]
    if lacking:
        raise TraceError(
            f"the model's forward needs '{lacking[0]}', which {inputs} does not return; "
            "add it there"
        )
    taken = names_taken(model.model)
    if taken is None or model.loss is not None:
        return
    extra = sorted(available - taken)
    if extra:
        raise TraceError(
            f"{inputs} returns '{extra[0]}', which the model's forward does not take "
            f"(it takes {', '.join(sorted(taken))}); leave it out, or name a function that "
            "uses it with loss: in the job file"
        )
