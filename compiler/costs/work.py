"""What an operator computes and keeps, found by running it on fake tensors: FLOPs and bytes."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pipecut.compiler.costs.arguments import concrete, empty_tensor
from pipecut.compiler.costs.attention import Attention, kernel_of
from pipecut.compiler.costs.data_sizes import DataSized
from pipecut.compiler.costs.kernels import Kernels
from pipecut.compiler.graph import Graph, OpaqueCall, OpaqueWork, Operator, Ref
from pipecut.compiler.operators.lookup import resolve, rule_of
from pipecut.compiler.operators.table import GETITEM

NO_GRAD = "torch.set_grad_enabled(False)"


@dataclass(frozen=True)
class Work:
    """FLOPs forward and backward, and what autograd keeps of one call.

    `saved_inputs` are positions of inputs that it keeps, `saves_output` whether it keeps the
    result, `saved_own_bytes` the bytes of tensors that the operator makes for backward.
    `forward_inner` and `backward_inner` are bytes that an operator of several kernels moves
    between them.
    """

    forward_flops: float
    backward_flops: float
    saved_inputs: tuple[int, ...]
    saves_output: bool
    saved_own_bytes: int
    forward_inner: float = 0.0
    backward_inner: float = 0.0


NOTHING = Work(0.0, 0.0, (), saves_output=False, saved_own_bytes=0)


def measure_all(graph: Graph, microbatch: int, device_type: str) -> list[Work]:
    """The work of every operator for one microbatch, with the kernels of a type of device.

    Equal calls are measured once.
    """
    measured: dict[Any, Work] = {}
    works = []
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, Kernels(device_type):
        for operator in graph.operators:
            key = identity(operator, graph)
            if key not in measured:
                with _data_sized(operator, graph, mode):
                    measured[key] = _measure(operator, graph, microbatch, device_type)
            works.append(measured[key])
    return works


def _data_sized(
    operator: Operator, graph: Graph, mode: FakeTensorMode
) -> AbstractContextManager[Any]:
    """Around an operator that may make a size which depends on data."""
    made = [graph.values[name] for name in graph.results_of(operator)] if graph.data_sizes else []
    named = ((n, s) for v in made for n, s in zip(v.shape, v.sizes, strict=True))
    numbers = [number for name, number in named if name in graph.data_sizes]
    return DataSized(mode, numbers[0]) if numbers else nullcontext()


def identity(operator: Operator, graph: Graph) -> Any:
    """What an operator's cost depends on beside the batch; equal for equal calls.

    That is its target, arguments, sizes, strides, dtypes and gradients.
    """
    position = {name: index for index, name in enumerate(operator.inputs)}

    def tensor(name: str) -> Any:
        value = graph.values.get(name)
        if value is None:
            return position[name], name
        return position[name], (value.sizes, value.strides, value.dtype, value.needs_grad)

    def anonymous(argument: Any) -> Any:
        if isinstance(argument, Ref):
            return tensor(argument.name)
        if isinstance(argument, tuple):
            return tuple(anonymous(item) for item in argument)
        return repr(argument)

    called = operator.target, anonymous(operator.args), anonymous(operator.kwargs)
    if operator.opaque is not None:
        # By its class, and what it holds: its arguments are only what it is given.
        return *called, operator.source, *map(tensor, operator.inputs), operator.contexts
    return *called, operator.contexts


def _measure(operator: Operator, graph: Graph, microbatch: int, device_type: str) -> Work:
    if operator.opaque is not None:
        return opaque_work(operator.opaque, microbatch)
    if operator.target == GETITEM or any(name not in graph.values for name in operator.inputs):
        return NOTHING
    counted_as = rule_of(operator.target).counted_as
    if counted_as == "experts" and len(operator.inputs) == 3:
        return _grouped_product(operator, graph)
    tensors = {name: empty_tensor(graph.values[name]) for name in operator.inputs}
    sizes = graph.sizes(microbatch)
    args = concrete(operator.args, tensors, sizes)
    kwargs = {name: concrete(value, tensors, sizes) for name, value in operator.kwargs}
    try:
        run = _run(operator, tensors, args, kwargs)
    except Exception:
        # An operator without a fake kernel or a backward: charged by the bytes it moves only.
        return NOTHING
    if counted_as == "attention":
        return _attention(run, Attention.of(tuple(args), kwargs), device_type)
    return run.work


def opaque_work(call: OpaqueCall, microbatch: int) -> Work:
    """What a module that runs as it is was seen to take, on a line through two batch sizes."""
    first, second = call.work

    def scaled(of: Callable[[OpaqueWork], float]) -> float:
        rise = (of(second) - of(first)) / (second.samples - first.samples)
        return max(0.0, of(first) + rise * (microbatch - first.samples))

    return Work(
        scaled(lambda work: work.forward_flops),
        scaled(lambda work: work.backward_flops),
        tuple(sorted({*first.saved_inputs, *second.saved_inputs})),
        saves_output=False,
        saved_own_bytes=round(scaled(lambda work: work.saved_bytes)),
    )


@dataclass(frozen=True)
class _Run:
    """One forward and backward on fake tensors, with the bytes that each of them wrote."""

    work: Work
    forward_written: float
    backward_written: float


def _run(
    operator: Operator, tensors: dict[str, torch.Tensor], args: Any, kwargs: dict[str, Any]
) -> _Run:
    """Raises what the operator's fake kernels raise."""
    leaves = [tensor for tensor in tensors.values() if tensor.requires_grad]
    # An in-place write to a leaf is refused by autograd; the graph's own tensors are no leaves.
    writes_leaf = any(tensors[name].requires_grad for name in operator.writes if name in tensors)
    grad = bool(leaves) and NO_GRAD not in operator.contexts and not writes_leaf
    saved: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    saving = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    forward, backward = FlopCounterMode(display=False), FlopCounterMode(display=False)
    forward_writes, backward_writes = _Written(), _Written()
    with torch.set_grad_enabled(grad), saving:
        with forward, forward_writes:
            result = resolve(operator.target)(*args, **kwargs)
        results = result if isinstance(result, list | tuple) else [result]
        outputs = [output for output in results if isinstance(output, torch.Tensor)]
        wanted = [output for output in outputs if output.requires_grad]
        if wanted:
            with backward, backward_writes:
                gradients = [torch.empty_like(output) for output in wanted]
                torch.autograd.grad(wanted, leaves, gradients, allow_unused=True)
    flops = Work(
        float(forward.get_total_flops()),
        float(backward.get_total_flops()) if wanted else 0.0,
        (),
        saves_output=False,
        saved_own_bytes=0,
    )
    work = _with_saved(flops, saved, [tensors[name] for name in operator.inputs], outputs)
    return _Run(work, forward_writes.bytes, backward_writes.bytes)


def _with_saved(
    work: Work,
    saved: Sequence[torch.Tensor],
    inputs: Sequence[torch.Tensor],
    outputs: Sequence[torch.Tensor],
) -> Work:
    """The work with what autograd keeps; equal tensors are those of one storage."""
    position = {tensor.untyped_storage()._cdata: index for index, tensor in enumerate(inputs)}
    results = {tensor.untyped_storage()._cdata for tensor in outputs}
    own_bytes: dict[int, int] = {}
    saved_inputs: set[int] = set()
    saves_output = False
    for tensor in saved:
        storage = tensor.untyped_storage()
        if storage._cdata in position:
            saved_inputs.add(position[storage._cdata])
        elif storage._cdata in results:
            saves_output = True
        else:
            own_bytes[storage._cdata] = storage.nbytes()
    return replace(
        work,
        saved_inputs=tuple(sorted(saved_inputs)),
        saves_output=saves_output,
        saved_own_bytes=sum(own_bytes.values()),
    )


class _Written(TorchDispatchMode):
    """Counts the bytes of what operators make."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.bytes += sum(t.nbytes for t in tree_leaves(result) if isinstance(t, torch.Tensor))
        return result


def _attention(run: _Run, call: Attention, device_type: str) -> Work:
    """Two products forward; backward four, or five where flash attention recomputes the scores.

    Dao et al., FlashAttention, 2022, section 3 and algorithm 4. What plain operators write is
    read once more.
    """
    plain = kernel_of(call, device_type) == "math"
    has_backward = bool(run.work.backward_flops or run.backward_written)
    backward_products = (4 if plain else 5) if has_backward else 0
    return replace(
        run.work,
        forward_flops=2 * call.product,
        backward_flops=backward_products * call.product,
        forward_inner=2 * run.forward_written if plain else 0.0,
        backward_inner=2 * run.backward_written if plain else 0.0,
    )


def _grouped_product(operator: Operator, graph: Graph) -> Work:
    """Experts: each row meets its own matrix. Two FLOPs per row, input and output feature.

    Backward has one such product for the rows' gradient and one for the matrices'.
    """
    rows, weights = (graph.values[name] for name in operator.inputs[:2])
    product = 2.0 * rows.sizes[0] * weights.sizes[-2] * weights.sizes[-1]
    return Work(product, 2 * product, (0, 1, 2), saves_output=False, saved_own_bytes=0)
