"""A stage in eval mode as an exported program, traced on fake tensors: it takes no memory."""

from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from pipecut.model.quiet_export import quiet
from pipecut.plan.schema import Batch, Plan, Stage, Tensor

# The name under which a program holds its stage: what the exporter puts before each FQN.
STAGE = "stage"


# A model that returns nothing but its loss gives that.
LOSS = Tensor(name="loss", shape=[], dtype="float32")


@dataclass(frozen=True)
class StageCall:
    """What a stage takes, in order, and what is asked of it: tensors to send, then outputs."""

    stage: Stage
    takes: tuple[Tensor, ...]
    sends: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def gives(self) -> tuple[Tensor, ...]:
        """What the program returns, in order."""
        return (*self.sends, *self.outputs)


def call_of(plan: Plan, stage: Stage, needed: frozenset[str], only_loss: bool) -> StageCall:
    """The call of a stage of a plan in eval mode.

    `needed` are the values that later stages take. With `only_loss` the last stage gives the loss.
    """
    tensors_after = {boundary.left: boundary.tensors for boundary in plan.boundaries}
    inputs = {tensor.name: tensor for tensor in plan.inputs}
    last = stage.index == len(plan.stages) - 1
    received = tensors_after.get(stage.index - 1, [])
    passed_on = {tensor.name for tensor in received}
    sent = [
        tensor
        for tensor in tensors_after.get(stage.index, [])
        if tensor.name in needed and tensor.name not in passed_on
    ]
    return StageCall(
        stage,
        takes=(*received, *(inputs[name] for name in stage.batch_inputs)),
        sends=tuple(sent),
        outputs=(LOSS,) if only_loss and last else tuple(stage.outputs),
    )


class _Stage(nn.Module):
    """A stage that returns what is asked of it, and nothing else."""

    def __init__(self, module: nn.Module, call: StageCall) -> None:
        super().__init__()
        self.stage = module
        self.call = call

    def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The tensors that `call.gives` names."""
        call, outputs = self.call, dict[str, torch.Tensor]()
        wanted = {"outputs": outputs} if call.stage.outputs else {}
        results = self.stage(*given, **wanted)
        if call.outputs == (LOSS,):
            return (results[0],)
        # A last stage returns its loss, where it has one.
        by_name = dict(zip(call.stage.sends, results, strict=False))
        sent = tuple(by_name[tensor.name] for tensor in call.sends)
        return (*sent, *(outputs[tensor.name] for tensor in call.outputs))


def export_stage(module: nn.Module, call: StageCall, batch: Batch) -> ExportedProgram:
    """Trace a stage for every batch that a plan takes. Its parameters become fake tensors.

    Raises what torch.export raises.
    """
    mode = FakeTensorMode(shape_env=ShapeEnv(tracked_fakes=[]), allow_non_fake_inputs=True)
    sizes = batch.sizes(max(2, batch.microbatch) if batch.dynamic else batch.microbatch)
    with mode:
        _make_parameters_fake(module)
        arguments = tuple(
            torch.empty(tensor.sizes(sizes), dtype=getattr(torch, tensor.dtype))
            for tensor in call.takes
        )
    shapes = (tuple(map(_dynamic, call.takes)),) if batch.dynamic or batch.lengths else None
    with quiet(), torch.no_grad():
        wrapped = _Stage(module.eval(), call).eval()
        return torch.export.export(wrapped, arguments, dynamic_shapes=shapes, strict=False)


def _dynamic(tensor: Tensor) -> dict[int, object]:
    """The dimensions that are not fixed; how they hang together, the trace finds out."""
    sizes = enumerate(tensor.shape)
    return {dimension: Dim.AUTO for dimension, size in sizes if isinstance(size, str)}


def _make_parameters_fake(module: nn.Module) -> None:
    """To be called within a fake tensor mode. A tied parameter is made once."""
    fakes: dict[nn.Parameter, nn.Parameter] = {}
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            if parameter is None:
                continue
            if parameter not in fakes:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                fakes[parameter] = nn.Parameter(empty, requires_grad=False)
            owner._parameters[name] = fakes[parameter]
