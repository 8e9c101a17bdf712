"""Gradients of weights that come later: a product's backward gives the gradient of what it multiplied, and puts the rest aside.

While a stage runs under `Later`, functions of DEFERRED whose weight is a trainable parameter are
replaced by ones that do so, where `_deferrable` knows all that they are given. Everything else of a
backward - biases, norms, embeddings, complex numbers, what runs under autocast - comes at once.
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

# Operators by name, as the graph has them.
DEFERRED = ("linear", "addmm", "conv1d", "conv2d", "conv3d")
# What is to be done: a parameter, and what makes its gradient, added to what is there already, in place.
Task = tuple[nn.Parameter, Callable[[torch.Tensor | None], torch.Tensor]]


def _product(
    left: torch.Tensor, right: torch.Tensor
) -> Callable[[torch.Tensor | None], torch.Tensor]:
    """A product that is added by the kernel that makes it."""

    def add(there: torch.Tensor | None) -> torch.Tensor:
        if there is None:
            return left @ right
        # That of an embedding may be sparse.
        return there.addmm_(left, right) if there.layout == torch.strided else left @ right + there

    return add


class _Linear(torch.autograd.Function):
    """x (..., in) times weight (out, in) transposed, plus bias (out)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: nn.Parameter,
        bias: torch.Tensor | None,
        tasks: "WeightGradStore",
    ) -> torch.Tensor:
        # Autograd then tells where a weight was written between the two.
        ctx.save_for_backward(x, weight)
        ctx.weight, ctx.tasks = weight, tasks
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x, _), weight, gradient = ctx.saved_tensors, ctx.weight, gradients[0]
        rows, columns = gradient.flatten(0, -2), x.flatten(0, -2)
        ctx.tasks.put(weight, _product(rows.t(), columns))
        into = gradient @ weight if ctx.needs_input_grad[0] else None
        return into, None, rows.sum(0) if ctx.needs_input_grad[2] else None, None


class _Product(torch.autograd.Function):
    """x (rows, in) times weight (in, out), plus what broadcasts to (rows, out)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: nn.Parameter,
        added: torch.Tensor,
        tasks: "WeightGradStore",
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.weight, ctx.shape, ctx.tasks = weight, added.shape, tasks
        return torch.addmm(added, x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x, _), weight, gradient = ctx.saved_tensors, ctx.weight, gradients[0]
        ctx.tasks.put(weight, _product(x.t(), gradient))
        into = gradient @ weight.t() if ctx.needs_input_grad[0] else None
        return (
            into,
            None,
            gradient.sum_to_size(ctx.shape) if ctx.needs_input_grad[2] else None,
            None,
        )


class _Convolution(torch.autograd.Function):
    """x (batch, in, ...) with weight (out, in / groups, ...), plus bias (out)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: nn.Parameter,
        bias: torch.Tensor | None,
        how: tuple[Any, ...],
        tasks: "WeightGradStore",
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.weight, ctx.how, ctx.tasks = weight, how, tasks
        stride, padding, dilation, groups = how
        return torch.convolution(
            x, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups
        )

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x, _), weight, gradient = ctx.saved_tensors, ctx.weight, gradients[0]
        stride, padding, dilation, groups = ctx.how
        rest = ([weight.shape[0]], stride, padding, dilation, False, [0] * len(stride), groups)
        backward = torch.ops.aten.convolution_backward.default

        def of_weight(there: torch.Tensor | None) -> torch.Tensor:
            made: torch.Tensor = backward(gradient, x, weight, *rest, [False, True, False])[1]
            if there is None:
                return made
            return there.add_(made) if there.layout == torch.strided else made + there

        ctx.tasks.put(weight, of_weight)
        needs = ctx.needs_input_grad
        into, _, bias = backward(gradient, x, weight, *rest, [needs[0], False, needs[2]])
        return into, None, bias, None, None


class WeightGradStore(TorchFunctionMode):
    """Runs a forward so that its backward puts gradients of weights aside, in order, for `do`."""

    def __init__(
        self,
        gradient_added: Callable[[nn.Parameter], None] = lambda _: None,
        gradient_ready: Callable[[nn.Parameter], None] = lambda _: None,
        own_hooks: Mapping[nn.Parameter, int] | None = None,
    ) -> None:
        super().__init__()
        self.tasks: deque[Task] = deque()
        # In place of the hooks of gradients that autograd makes: called each time a parameter's
        # gradient was added to, and once when it gets no more.
        self.gradient_added, self.gradient_ready = gradient_added, gradient_ready
        # How many of a parameter's hooks are the runtime's own.
        self.own_hooks = own_hooks or {}

    def put(
        self, weight: nn.Parameter, task: Callable[[torch.Tensor | None], torch.Tensor]
    ) -> None:
        """Put one aside."""
        self.tasks.append((weight, task))

    @property
    def weights(self) -> set[nn.Parameter]:
        """The parameters whose gradients are not whole yet."""
        return {weight for weight, _ in self.tasks}

    def do(self) -> None:
        """Add what was put aside to the parameters' gradients."""
        left = Counter(weight for weight, _ in self.tasks)
        while self.tasks:
            weight, task = self.tasks.popleft()
            with torch.no_grad():
                weight.grad = task(weight.grad)
            self.gradient_added(weight)
            left[weight] -= 1
            if not left[weight]:
                self.gradient_ready(weight)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Replaces the products."""
        if not kwargs and torch.is_grad_enabled() and func in _WEIGHT and len(args) > _WEIGHT[func]:
            weight, x = args[_WEIGHT[func]], args[1 if func is torch.addmm else 0]
            added = args[0] if func is torch.addmm else _at(args, 2, None)
            if self._deferrable(weight, x, added):
                if func is F.linear and x.dim() >= 2 and weight.dim() == 2 and _is_bias(added):
                    return _Linear.apply(x, weight, added, self)  # type: ignore[no-untyped-call]
                if func is torch.addmm and len(args) == 3:
                    return _Product.apply(x, weight, added, self)  # type: ignore[no-untyped-call]
                known = func in _CONVOLUTIONS and not isinstance(_at(args, 4, 0), str)
                if known and x.dim() == _CONVOLUTIONS[func] + 2 and _is_bias(added):
                    return self._convolution(_CONVOLUTIONS[func], args)
        return func(*args, **(kwargs or {}))

    def _deferrable(self, weight: Any, x: Any, added: Any) -> bool:
        """Whether the gradient of a weight may come later: real numbers of one kind, and nobody else to be told of it."""
        if not (
            isinstance(weight, nn.Parameter)
            and weight.requires_grad
            and weight.dtype.is_floating_point
        ):
            return False
        for tensor in (weight, x, added):
            known = type(tensor) in _KNOWN and tensor.layout == torch.strided
            if tensor is not None and not (
                known and tensor.dtype == weight.dtype and tensor.device == weight.device
            ):
                return False
        # A user's hooks are called by autograd alone.
        hooks = weight._post_accumulate_grad_hooks
        hooked = weight._backward_hooks or len(hooks or ()) > self.own_hooks.get(weight, 0)
        return not hooked and not torch.is_autocast_enabled(weight.device.type)

    def _convolution(self, dimensions: int, args: tuple[Any, ...]) -> Any:
        how = [
            _as_list(_at(args, at, default), dimensions) for at, default in ((3, 1), (4, 0), (5, 1))
        ]
        rest = (*how, _at(args, 6, 1))
        return _Convolution.apply(args[0], args[1], _at(args, 2, None), rest, self)  # type: ignore[no-untyped-call]


_CONVOLUTIONS: dict[Any, int] = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
# Where each takes its weight.
_WEIGHT: dict[Any, int] = {F.linear: 1, torch.addmm: 2, **dict.fromkeys(_CONVOLUTIONS, 1)}
# The compiler tries stages on fake tensors; other subclasses compute as they like.
_KNOWN = (torch.Tensor, nn.Parameter, FakeTensor)


def _is_bias(added: Any) -> bool:
    return added is None or added.dim() == 1


def _at(args: tuple[Any, ...], position: int, default: Any) -> Any:
    return args[position] if len(args) > position else default


def _as_list(value: Any, dimensions: int) -> list[int]:
    found = [value] if isinstance(value, int) else list(value)
    return found * dimensions if len(found) == 1 else found
