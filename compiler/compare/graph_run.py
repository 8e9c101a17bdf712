"""A traced graph as one stage, in the code that a plan would have, run on an example batch."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from pipecut.compiler.compare.model_run import STEP, Tensors, tensors_after
from pipecut.compiler.graph import Graph
from pipecut.compiler.stages.build import build
from pipecut.compiler.stages.cut import cut
from pipecut.compiler.trace.batch import ExampleBatch
from pipecut.errors import TraceError
from pipecut.model.draws import StageDraws
from pipecut.model.nudge import nudge
from pipecut.model.opaque.watching import drawing_once

CPU = torch.device("cpu")
REMEDY = (
    "a trace has torch's operators on inputs, parameters and buffers, and nothing of what forward "
    "keeps in Python, reads out of tensors as numbers, or hooks into backward: write that with "
    "tensors and registered buffers; --trust-trace takes the trace as it is"
)


class GraphRun:
    """Runs the graph of training mode; `values` has those of parameters to begin with, by FQN."""

    def __init__(self, graph: Graph, values: Mapping[str, torch.Tensor], seed: int) -> None:
        (whole,) = cut(graph, [(0,)] * len(graph.operators), 1)
        buffers = {buffer.names[0]: buffer.data.detach().clone() for buffer in graph.buffers}
        self.module = build(graph, whole, 1, CPU, buffers).train()
        self.inputs = [graph.batch_names()[value] for value in whole.batch_inputs]
        self.opaque = whole.opaque
        self.draws = StageDraws(seed, [n for o in graph.operators for n in o.draws])
        self.take_values(values)

    def take_values(self, values: Mapping[str, torch.Tensor]) -> None:
        """Copy the values of parameters, by FQN."""
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                parameter.copy_(values[name])

    def forward(self, batch: ExampleBatch) -> torch.Tensor:
        """The loss. Raises what an operator raises."""
        with drawing_once(self.module, self.opaque, self.draws.draws):
            (loss,) = self.module(*[batch.tensors[name].clone() for name in self.inputs])
        return loss  # type: ignore[no-any-return]

    def step(self, batch: ExampleBatch, microbatch: int) -> Tensors:
        """Loss, gradients and buffers after forward and backward. Raises TraceError."""
        self.module.zero_grad(set_to_none=True)
        try:
            with self.draws.at(STEP, microbatch):
                loss = self.forward(batch)
            torch.autograd.backward([loss])
        except Exception as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise TraceError(
                f"the traced graph fails where the model itself runs: {text}; {REMEDY}"
            ) from error
        return tensors_after(self.module, loss)

    def step_nudged(self, batch: ExampleBatch, microbatch: int, precision: str) -> Tensors:
        """As `step`, with another last bit of each parameter, and then put back."""
        with self._put_back():
            nudge(self.module, precision, microbatch)
            return self.step(batch, microbatch)

    @contextmanager
    def _put_back(self) -> Iterator[None]:
        held = [*self.module.parameters(), *self.module.buffers()]
        values = [tensor.detach().clone() for tensor in held]
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, value in zip(held, values, strict=True):
                    tensor.copy_(value)
