"""The user's model itself, with the values that training begins with, run on an example batch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from pipecut.compiler.inputs.job import Job
from pipecut.compiler.trace.batch import ExampleBatch
from pipecut.errors import PipecutError
from pipecut.model.draws import Draws
from pipecut.model.functions import find_function
from pipecut.model.opaque.watching import drawing_once
from pipecut.model.precision import cast_model
from pipecut.model.unsplit import WithLoss
from pipecut.model.weights import all_values

Tensors = dict[str, torch.Tensor]
# All batches that are compared are of this step.
STEP = 1


class CannotRun(Exception):
    """The model cannot be run here; the text says why."""


@contextmanager
def running_model() -> Iterator[None]:
    """Around the user's code: what it raises becomes CannotRun."""
    try:
        yield
    except (CannotRun, PipecutError):
        raise
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())[:200]
        raise CannotRun(f"the model does not run here: {type(error).__name__}: {text}") from error


def model_with_values(job: Job) -> WithLoss:
    """The model in training mode, with its loss, on the CPU. Raises CannotRun."""
    spec = job.spec
    factory = find_function(spec.model.factory, job.folders, str(job.path))
    loss = find_function(spec.loss, job.folders, str(job.path)) if spec.loss else None
    torch.manual_seed(spec.seed)
    with running_model():
        model: nn.Module = factory(**spec.model.args)
        if any(isinstance(p, FakeTensor) or p.is_meta for p in model.parameters()):
            raise CannotRun("its factory makes no model of its own at each call")
        if spec.weights:
            model.load_state_dict(all_values(job.folder / spec.weights), strict=False)
        return WithLoss(cast_model(model, spec.precision), loss).train().to("cpu")


class ModelRun:
    """Runs the model; its buffers and other state change as in training."""

    def __init__(self, with_loss: WithLoss, seed: int, opaque: tuple[str, ...] = ()) -> None:
        self.with_loss, self.draws, self.opaque = with_loss, Draws(seed), opaque

    @property
    def model(self) -> nn.Module:
        """The user's own module."""
        return self.with_loss.model

    def parameters(self) -> Tensors:
        """By FQN, a tied one under each."""
        return dict(self.model.named_parameters(remove_duplicate=False))

    def forward(self, batch: ExampleBatch) -> torch.Tensor:
        """The loss. Raises what the user's code raises."""
        tensors = {name: tensor.clone() for name, tensor in batch.tensors.items()}
        tensors |= {name: tensors[first] for name, first in batch.twins.items()}
        self.with_loss.nesting = batch.nesting
        return self.with_loss(tensors | batch.constants)  # type: ignore[no-any-return]

    def step(self, batch: ExampleBatch, microbatch: int) -> Tensors:
        """Loss, gradients and buffers after forward and backward. Raises CannotRun."""
        self.with_loss.zero_grad(set_to_none=True)
        drawing = drawing_once(self.model, self.opaque, self.draws)
        with running_model(), self.draws.at(STEP, microbatch), drawing:
            loss = self.forward(batch)
            if isinstance(loss, FakeTensor):
                raise CannotRun("it computes with tensors that it kept from the trace")
            if not bool(torch.isfinite(loss)):
                raise CannotRun("its loss is no finite number with its first values")
            torch.autograd.backward([loss])
        return tensors_after(self.model, loss)


def tensors_after(model: nn.Module, loss: torch.Tensor) -> Tensors:
    """What a model has after backward, under each name: `gradient/FQN`."""
    tensors = {"loss/loss": loss.detach()}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.grad is not None:
            tensors[f"gradient/{name}"] = parameter.grad
    for name, buffer in model.named_buffers(remove_duplicate=False):
        tensors[f"buffer/{name}"] = buffer.detach().clone()
    return tensors


@contextmanager
def training_terms(default_dtype: torch.dtype) -> Iterator[None]:
    """As a rank trains: gradients on, the default dtype of the trace; random numbers as before."""
    surrounding = torch.get_default_dtype()
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        try:
            torch.set_default_dtype(default_dtype)
            yield
        finally:
            torch.set_default_dtype(surrounding)
