"""What an operator computes and keeps, found by running it on fake tensors: FLOPs, bytes, saved tensors."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pipecut.compiler.costs.attention import Attention, kernel_of
from pipecut.compiler.costs.kernels import Kernels
from pipecut.compiler.graph import Graph, Literal, Operator, Ref, Sym, Value
from pipecut.compiler.operators.lookup import resolve, rule_of
from pipecut.compiler.operators.table import GETITEM

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Work:
    """FLOPs forward and backward, and what autograd keeps: input and output positions, and bytes of its own.

    `forward_inner` and `backward_inner` are bytes that an operator of several kernels moves between them.
    """

    forward_flops: float
    backward_flops: float
    saved_inputs: tuple[int, ...]
    saves_output: bool
    saved_own_bytes: int
    forward_inner: float = 0.0
    backward_inner: float = 0.0


def measure_all(graph: Graph, microbatch: int, device_type: str) -> list[Work]:
    """The work of every operator for one microbatch with the kernels of a type of device; equal calls are measured once."""
    known: dict[Any, Work] = {}
    results = []
    with FakeTensorMode(allow_non_fake_inputs=True), Kernels(device_type):
        for operator in graph.operators:
            key = identity(operator, graph)
            if key not in known:
                known[key] = _measure(operator, graph, microbatch, device_type)
            results.append(known[key])
    return results


def identity(operator: Operator, graph: Graph) -> Any:
    """What an operator's cost depends on but the batch: target, arguments, sizes, strides, dtypes, gradients."""
    position = {name: index for index, name in enumerate(operator.inputs)}

    def anonymous(argument: Any) -> Any:
        if isinstance(argument, Ref):
            value = graph.values.get(argument.name)
            shape = (
                (value.sizes, value.strides, value.dtype, value.needs_grad)
                if value
                else argument.name
            )
            return position[argument.name], shape
        if isinstance(argument, tuple):
            return tuple(anonymous(item) for item in argument)
        return repr(argument)

    return operator.target, anonymous(operator.args), anonymous(operator.kwargs), operator.contexts


def _measure(operator: Operator, graph: Graph, microbatch: int, device_type: str) -> Work:
    nothing = Work(0.0, 0.0, (), False, 0)
    if operator.target == GETITEM or any(name not in graph.values for name in operator.inputs):
        return nothing
    counted_as = rule_of(operator.target).counted_as
    if counted_as == "experts" and len(operator.inputs) == 3:
        return _grouped(operator, graph)
    tensors = {name: _fake(graph.values[name]) for name in operator.inputs}
    function = resolve(operator.target)
    args = concrete(operator.args, tensors, microbatch)
    kwargs = {name: concrete(value, tensors, microbatch) for name, value in operator.kwargs}
    saved: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    leaves = [t for t in tensors.values() if t.requires_grad]
    grad = bool(leaves) and "torch.set_grad_enabled(False)" not in operator.contexts
    # An in-place write to a leaf is refused by autograd; the graph's own tensors are no leaves.
    writes_leaf = any(tensors[name].requires_grad for name in operator.writes if name in tensors)
    try:
        with (
            torch.set_grad_enabled(grad and not writes_leaf),
            torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t),
        ):
            with FlopCounterMode(display=False) as forward, _Written() as written:
                result = function(*args, **kwargs)
            outputs = [
                r
                for r in (result if isinstance(result, list | tuple) else [result])
                if isinstance(r, torch.Tensor)
            ]
            wanted = [o for o in outputs if o.requires_grad]
            backward_flops, back = 0.0, _Written()
            if wanted:
                with FlopCounterMode(display=False) as backward, back:
                    torch.autograd.grad(
                        wanted, leaves, [torch.empty_like(o) for o in wanted], allow_unused=True
                    )
                backward_flops = float(backward.get_total_flops())
    except Exception:
        # An operator without a fake kernel or a backward: charged by the bytes it moves alone.
        return nothing
    work = _work(
        float(forward.get_total_flops()), backward_flops, saved, tensors, operator, outputs
    )
    if counted_as == "attention":
        return _attention(
            work, Attention.of(tuple(args), kwargs), device_type, written.bytes, back.bytes
        )
    return work


def _work(
    forward: float,
    backward: float,
    saved: list[torch.Tensor],
    tensors: dict[str, torch.Tensor],
    operator: Operator,
    outputs: list[torch.Tensor],
) -> Work:
    inputs = {tensors[name].untyped_storage()._cdata: i for i, name in enumerate(operator.inputs)}
    results = {o.untyped_storage()._cdata for o in outputs}
    own: dict[int, int] = {}
    positions: set[int] = set()
    output = False
    for tensor in saved:
        storage = tensor.untyped_storage()
        if storage._cdata in inputs:
            positions.add(inputs[storage._cdata])
        elif storage._cdata in results:
            output = True
        else:
            own[storage._cdata] = storage.nbytes()
    return Work(forward, backward, tuple(sorted(positions)), output, sum(own.values()))


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


def _attention(work: Work, call: Attention, device_type: str, written: float, back: float) -> Work:
    """Two products forward; backward four, or five where flash attention recomputes the scores (Dao et al., FlashAttention,

    2022, section 3 and algorithm 4). What plain operators make is written once and read once.
    """
    math = kernel_of(call, device_type) == "math"
    inner = (2 * written, 2 * back) if math else (0.0, 0.0)
    flops = (
        2 * call.product,
        (4 if math else 5) * call.product if work.backward_flops or back else 0.0,
    )
    return replace(
        work,
        forward_flops=flops[0],
        backward_flops=flops[1],
        forward_inner=inner[0],
        backward_inner=inner[1],
    )


def _grouped(operator: Operator, graph: Graph) -> Work:
    """Experts: each row meets the matrix of its own. Two FLOPs for each of rows x in x out, and as many for either gradient."""
    rows, weights = (graph.values[name] for name in operator.inputs[:2])
    product = 2.0 * rows.sizes[0] * weights.sizes[-2] * weights.sizes[-1]
    return Work(product, 2 * product, (0, 1, 2), False, 0)


def _fake(value: Value) -> torch.Tensor:
    dtype = getattr(torch, value.dtype)
    tensor = torch.empty_strided(value.sizes, value.strides, dtype=dtype)
    return tensor.requires_grad_() if value.needs_grad and dtype.is_floating_point else tensor


# What an expression of a size may call.
SIZE_NAMES: dict[str, Any] = {"__builtins__": {"min": min, "max": max, "abs": abs}, "math": math}


def concrete(
    argument: Any, tensors: dict[str, torch.Tensor], microbatch: int, device: torch.device = CPU
) -> Any:
    """An argument as the operator takes it."""
    if isinstance(argument, Ref):
        return tensors[argument.name]
    if isinstance(argument, Sym):
        return int(eval(argument.expression, SIZE_NAMES, {"batch": microbatch}))
    if isinstance(argument, Literal):
        return (
            device
            if argument.code == "device"
            else getattr(torch, argument.code.removeprefix("torch."))
        )
    if isinstance(argument, tuple):
        return [concrete(item, tensors, microbatch, device) for item in argument]
    return argument
