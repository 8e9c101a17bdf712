"""A layer of each kind, run beside its operators, where the model as a whole is too large to run.

Parameters, and what other layers would hand on, are random numbers: both sides have the same ones.
Compared are all results, and the gradients of parameters and inputs for random ones of results.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.func import functional_call
from torch.utils._pytree import tree_flatten, tree_unflatten

from pipecut.compiler.compare import limits
from pipecut.compiler.compare.graph_run import CPU, REMEDY
from pipecut.compiler.compare.layer_graph import LayerGraph, NotByItself, graph_of_layer
from pipecut.compiler.compare.limits import (
    RunSize,
    at_size,
    estimated_flops,
    fitting,
    sizes_to_run,
)
from pipecut.compiler.compare.model_run import (
    STEP,
    CannotRun,
    Tensors,
    running_model,
    tensors_after,
    training_terms,
)
from pipecut.compiler.compare.side_by_side import beyond_rounding, largest_difference
from pipecut.compiler.graph import Graph, TracedLayer, Value
from pipecut.compiler.inputs.job import Job
from pipecut.compiler.stages.build import build
from pipecut.compiler.stages.cut import Cut, cut
from pipecut.compiler.trace.batch import ExampleBatch, example_batch
from pipecut.compiler.trace.rehearse.python_state import put_back_after
from pipecut.compiler.trace.stamp.call_form import Made, Plain
from pipecut.errors import TraceError
from pipecut.model.comparison import TOLERANCE
from pipecut.model.draws import Draws, StageDraws
from pipecut.model.nudge import nudge
from pipecut.quantities import show_bytes

log = logging.getLogger("pipecut")

# FLOPs of the forwards of all layers that are run, as `limits.MOST_FLOPS` for a whole model.
MOST_FLOPS = 4e9
SEED = 10_003


def compare_layers(job: Job, graph: Graph) -> tuple[str, ...]:
    """A line for each kind of layer: what was compared, or why not.

    Raises TraceError where a layer does something else than its operators.
    """
    lines, left = [], MOST_FLOPS
    for layer in graph.layers:
        try:
            _refuse_large(graph, layer)
            alone = graph_of_layer(graph, layer)
            size, flops = _size(alone, job.microbatch, left)
            left -= flops
            with training_terms(getattr(torch, graph.default_dtype)):
                lines.append(f"{layer.summary}: {_compared(job, layer, alone, size)}")
        except (NotByItself, CannotRun) as reason:
            log.debug("not compared", exc_info=True)
            lines.append(f"{layer.summary} not compared: {reason}")
    return tuple(lines)


def _refuse_large(graph: Graph, layer: TracedLayer) -> None:
    """Raises NotByItself, before anything is done that takes as long as the model is large."""
    inside = f"{layer.path}."
    held = sum(p.bytes for p in graph.parameters if p.names[0].startswith(inside))
    if held > limits.MOST_BYTES:
        raise NotByItself(f"{show_bytes(held)} of parameters are too many to run while compiling")


def _size(alone: LayerGraph, microbatch: int, most: float) -> tuple[RunSize, float]:
    """The largest size at which a layer is run, and its FLOPs. Raises NotByItself."""
    inside = replace(alone.graph, values=_values_of(alone))
    smallest = list(sizes_to_run(alone.graph, microbatch))[-1:]
    size = fitting(inside, smallest)
    flops = math.inf
    if size is not None:
        resized = at_size(inside, size)
        flops = sum(estimated_flops(operator, resized) for operator in resized.operators)
    if size is None or flops > most:
        raise NotByItself("one forward takes too long to run while compiling")
    return size, flops


def _values_of(alone: LayerGraph, given: Iterable[str] = ()) -> dict[str, Value]:
    """Those of the layer and what it needs, out of the model's many."""
    graph = alone.graph
    names = {name for operator in graph.operators for name in (operator.name, *operator.inputs)}
    names |= {tensor.value for tensor in graph.batch_inputs} | {*given}
    return {
        name: value
        for name, value in graph.values.items()
        if name.partition("[")[0] in names or name in names
    }


def _compared(job: Job, layer: TracedLayer, alone: LayerGraph, size: RunSize) -> str:
    """What was compared. Raises TraceError, and CannotRun."""
    torch.manual_seed(SEED)
    lengths = {**alone.graph.lengths, **size.lengths} if size.lengths else {}
    with running_model():
        batch = example_batch(job, size.samples, lengths)
    numbers = _Numbers.of(layer, alone, size, batch)
    with running_model(), put_back_after(layer.module):
        of_graph = _GraphOfLayer(job, alone, numbers)
        expected = _run_module(job, layer, alone, numbers, of_graph.given)
    tensors = of_graph.step()
    expected = {n: t for n, t in expected.items() if not n.startswith("buffer/") or n in tensors}
    difference, tolerance = largest_difference(tensors, expected), TOLERANCE[job.spec.precision]
    if tolerance < difference.value < math.inf:
        nudged = of_graph.step(nudged=job.spec.precision)
        if largest_difference(of_graph.step(), of_graph.step()).value <= tolerance:
            difference = beyond_rounding(expected, tensors, nudged, tolerance)
    if difference.value > tolerance:
        raise TraceError(
            f"the traced graph computes something else than the model: of the layer "
            f"'{layer.path}', run by itself with random numbers, {difference.tensor} differs by "
            f"{difference.value:.1e} of its norm (tolerance {tolerance:g}); {REMEDY}"
        )
    gradients = sum(name.startswith("gradient/") for name in expected)
    at = f" {size.reduced}" if size.reduced else ""
    return f"'{layer.path}' does what its trace does, by its results and {gradients} gradients{at}"


@dataclass(frozen=True)
class _Numbers:
    """Numbers for both sides: parameters by FQN; by value what is random and what is a batch's.

    `rest` are for what the layer is given, and its operators may not use.
    """

    parameters: Tensors
    inputs: Tensors
    batch: Tensors
    rest: Tensors

    @staticmethod
    def of(layer: TracedLayer, alone: LayerGraph, size: RunSize, batch: ExampleBatch) -> "_Numbers":
        values = at_size(replace(alone.graph, values=_values_of(alone, layer.given)), size).values
        drawn: dict[int, torch.Tensor] = {}
        parameters = {}
        for name, parameter in layer.module.named_parameters(remove_duplicate=False):
            if id(parameter) not in drawn:
                drawn[id(parameter)] = _drawn_parameter(parameter)
            parameters[f"{layer.path}.{name}"] = drawn[id(parameter)]
        inputs = {
            value.name: _drawn(values[value.name].sizes, getattr(torch, value.dtype))
            for value in (*alone.drawn, *alone.weights.values())
        }
        # What its operators do not use makes no difference.
        unused = {name for name in layer.given if name not in inputs}
        rest = {n: _drawn(values[n].sizes, getattr(torch, values[n].dtype)) for n in unused}
        names = alone.graph.batch_names()
        of_batch = {v: batch.tensors[n] for v, n in names.items() if n in batch.tensors}
        return _Numbers(parameters, inputs, of_batch, rest)


def _drawn_parameter(parameter: torch.Tensor) -> torch.Tensor:
    """Of a matrix such that products keep their size; around 1 of a vector, as a norm's weight."""
    numbers = _drawn(parameter.shape, parameter.dtype)
    if not (parameter.is_floating_point() or parameter.is_complex()):
        return numbers
    if parameter.dim() < 2:
        return 1.0 + 0.1 * numbers
    scale: float = math.prod(parameter.shape[1:]) ** -0.5
    return numbers * scale


def _drawn(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Of a standard normal distribution; 0 and 1 of whole numbers."""
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(tuple(shape), dtype=dtype)
    return torch.randint(2, tuple(shape)).to(dtype)


class _GraphOfLayer:
    """The layer's operators as a stage, after one with what they need of the batch alone."""

    def __init__(self, job: Job, alone: LayerGraph, numbers: _Numbers) -> None:
        graph, self.numbers = alone.graph, numbers
        count = len(graph.operators) - alone.before
        placement = [(0,)] * alone.before + [(1,)] * count
        before, self.cut = cut(graph, placement, 2)
        buffers = {buffer.names[0]: buffer.data.detach().clone() for buffer in graph.buffers}
        received: Sequence[torch.Tensor] = ()
        if alone.before:
            with torch.no_grad():
                received = build(graph, before, 2, CPU, buffers).train()(*self._inputs(before))
        # By value, what the layer is given that is not random.
        self.given = dict(zip(before.sends, received, strict=True)) | numbers.batch
        self.module = build(graph, self.cut, 2, CPU, buffers).train()
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                parameter.copy_(numbers.parameters[name])
        self.alone = alone
        drawing = [number for operator in graph.operators for number in operator.draws]
        self.draws = StageDraws(job.spec.seed, drawing)

    def _inputs(self, stage: Cut) -> list[torch.Tensor]:
        both = self.numbers.batch | self.numbers.inputs
        return [both[value].clone() for value in stage.batch_inputs]

    def step(self, nudged: str = "") -> Tensors:
        """Loss and gradients; `nudged`, a precision: with other last bits of parameters."""
        if nudged:
            nudge(self.module, nudged, SEED)
        self.module.zero_grad(set_to_none=True)
        leaves = _leaves(self.alone, self.numbers)
        both = self.numbers.batch | leaves
        received = [self.given[value].clone() for value in self.cut.receives]
        inputs = [both[value].clone() for value in self.cut.batch_inputs]
        try:
            with self.draws.at(STEP, 0):
                (loss,) = self.module(*received, *inputs)
            torch.autograd.backward([loss])
        except Exception as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise TraceError(
                f"the traced graph fails where the model itself runs: {text}; {REMEDY}"
            ) from error
        after = tensors_after(self.module, loss)
        del after["loss/loss"]
        return after | _gradients(self.alone, leaves)


def _leaves(alone: LayerGraph, numbers: _Numbers) -> Tensors:
    """Random inputs; gradients of results' weights are the results."""
    wanted = {value.name for value in alone.weights.values()}
    wanted |= {value.name for value in alone.drawn if value.needs_grad}
    return {
        name: tensor.clone().requires_grad_(name in wanted)
        for name, tensor in numbers.inputs.items()
    }


def _gradients(alone: LayerGraph, leaves: Tensors) -> Tensors:
    results = {value.name: f"result/{name}" for name, value in alone.weights.items()}
    return {
        results.get(name, f"gradient/{name}"): tensor.grad
        for name, tensor in leaves.items()
        if tensor.grad is not None
    }


class _Forward(nn.Module):
    """Calls a layer's forward alone: the trace saw hooks of the call outside of the layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer returns."""
        result: Any = self.layer.forward(*args, **kwargs)
        return result


def _run_module(
    job: Job, layer: TracedLayer, alone: LayerGraph, numbers: _Numbers, given: Tensors
) -> Tensors:
    """Results, gradients and buffers of the layer itself. Raises CannotRun, and what it raises."""
    leaves, held = _leaves(alone, numbers), _Held.of(layer, numbers)
    args, kwargs = _arguments(layer, numbers.rest | given | leaves)
    drawing = [number for operator in alone.graph.operators for number in operator.draws]
    tensors = held.of_forward()
    with _modes_of_trace(layer), Draws(job.spec.seed, drawing).at(STEP, 0):
        result = functional_call(_Forward(layer.module), tensors, args, kwargs)
        made = _made(layer, result)
        products = [made[name] * leaves[w.name] for name, w in alone.weights.items()]
        loss = torch.stack([product.sum() for product in products]).sum()
        if isinstance(loss, FakeTensor):
            raise CannotRun("it computes with tensors that it kept from the trace")
        torch.autograd.backward([loss])
    return held.after(tensors) | _gradients(alone, leaves)


@dataclass(frozen=True)
class _Held:
    """A layer's own tensors with numbers, by their names in it; a tied one is one tensor."""

    path: str
    parameters: Tensors
    buffers: Tensors

    @staticmethod
    def of(layer: TracedLayer, numbers: _Numbers) -> "_Held":
        """Parameters get the numbers, buffers what they have."""
        copies: dict[int, torch.Tensor] = {}
        parameters = {}
        for name, parameter in layer.module.named_parameters(remove_duplicate=False):
            if id(parameter) not in copies:
                copy = numbers.parameters[f"{layer.path}.{name}"].clone()
                copies[id(parameter)] = copy.requires_grad_(parameter.requires_grad)
            parameters[name] = copies[id(parameter)]
        buffers = {name: b.detach().clone() for name, b in layer.module.named_buffers()}
        return _Held(layer.path, parameters, buffers)

    def of_forward(self) -> Tensors:
        """As `_Forward` names them."""
        return {f"layer.{name}": t for name, t in (self.parameters | self.buffers).items()}

    def after(self, tensors: Tensors) -> Tensors:
        """Gradients and buffers under their FQNs; `tensors` are those that forward left."""
        gradients = {n: p.grad for n, p in self.parameters.items() if p.grad is not None}
        return {f"gradient/{self.path}.{name}": tensor for name, tensor in gradients.items()} | {
            f"buffer/{self.path}.{name}": tensors[f"layer.{name}"].detach() for name in self.buffers
        }


def _arguments(layer: TracedLayer, values: Tensors) -> tuple[Any, Any]:
    """Of the call, as it was traced. Raises CannotRun for a size, which depends on the batch."""
    leaves = []
    for leaf in layer.form.leaves:
        if not isinstance(leaf, Plain):
            leaves.append(values[layer.given[leaf[0]]].clone())
        elif isinstance(leaf.value, torch.SymInt):
            raise CannotRun("it is given a size")
        else:
            leaves.append(leaf.value)
    args, kwargs = tree_unflatten(leaves, layer.form.nesting)
    return args, kwargs


def _made(layer: TracedLayer, result: Any) -> Tensors:
    """The tensors that a call made, by their values in the graph. Raises CannotRun."""
    leaves, nesting = tree_flatten(result)
    if nesting != layer.results.nesting:
        raise CannotRun("it returns something else than in the trace")
    return {
        layer.made[form.position]: leaf
        for form, leaf in zip(layer.results.leaves, leaves, strict=True)
        if isinstance(form, Made)
    }


@contextmanager
def _modes_of_trace(layer: TracedLayer) -> Iterator[None]:
    """Meanwhile modules are in the mode in which they were traced."""
    modules = list(layer.module.modules())
    now = [module.training for module in modules]
    try:
        for module, mode in zip(modules, layer.modes, strict=True):
            module.training = mode
        yield
    finally:
        for module, mode in zip(modules, now, strict=True):
            module.training = mode
