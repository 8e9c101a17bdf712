"""Gradients of weights that come later: a product's backward gives the gradient of what it multiplied, and puts the rest aside.

While a stage runs under `Later`, functions of DEFERRED whose weight is a trainable parameter are replaced by ones that do so.
Everything else of a backward - biases, norms, embeddings - comes at once: it takes little time, and the next rank waits for none
of it.
"""

from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

# Operators by name, as the graph has them.
DEFERRED = ("linear", "addmm", "conv1d", "conv2d", "conv3d")
# What is to be done: a parameter, and what makes its gradient, added to what is there already, in place.
Task = tuple[nn.Parameter, Callable[[torch.Tensor | None], torch.Tensor]]


def _product(left: torch.Tensor, right: torch.Tensor) -> Callable[[torch.Tensor | None], torch.Tensor]:
    """A product that is added by the kernel that makes it."""
    return lambda there: left @ right if there is None else there.addmm_(left, right)


class _Linear(torch.autograd.Function):
    """x (..., in) times weight (out, in) transposed, plus bias (out)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: nn.Parameter, bias: torch.Tensor | None, tasks: "Later") -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.weight, ctx.tasks = weight, tasks
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x,), weight, gradient = ctx.saved_tensors, ctx.weight, gradients[0]
        rows, columns = gradient.flatten(0, -2), x.flatten(0, -2)
        ctx.tasks.put(weight, _product(rows.t(), columns))
        into = gradient @ weight if ctx.needs_input_grad[0] else None
        return into, None, rows.sum(0) if ctx.needs_input_grad[2] else None, None


class _Product(torch.autograd.Function):
    """x (rows, in) times weight (in, out), plus what broadcasts to (rows, out)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: nn.Parameter, added: torch.Tensor, tasks: "Later") -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.weight, ctx.shape, ctx.tasks = weight, added.shape, tasks
        return torch.addmm(added, x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x,), weight, gradient = ctx.saved_tensors, ctx.weight, gradients[0]
        ctx.tasks.put(weight, _product(x.t(), gradient))
        into = gradient @ weight.t() if ctx.needs_input_grad[0] else None
        return into, None, gradient.sum_to_size(ctx.shape) if ctx.needs_input_grad[2] else None, None


class _Convolution(torch.autograd.Function):
    """x (batch, in, ...) with weight (out, in / groups, ...), plus bias (out)."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: nn.Parameter, bias: torch.Tensor | None, how: tuple[Any, ...], tasks: "Later"
    ) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.weight, ctx.how, ctx.tasks = weight, how, tasks
        stride, padding, dilation, groups = how
        return torch.convolution(x, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x,), weight, gradient = ctx.saved_tensors, ctx.weight, gradients[0]
        stride, padding, dilation, groups = ctx.how
        rest = ([weight.shape[0]], stride, padding, dilation, False, [0] * len(stride), groups)
        backward = torch.ops.aten.convolution_backward.default

        def of_weight(there: torch.Tensor | None) -> torch.Tensor:
            made: torch.Tensor = backward(gradient, x, weight, *rest, [False, True, False])[1]
            return made if there is None else there.add_(made)

        ctx.tasks.put(weight, of_weight)
        needs = ctx.needs_input_grad
        into, _, bias = backward(gradient, x, weight, *rest, [needs[0], False, needs[2]])
        return into, None, bias, None, None


class Later(TorchFunctionMode):
    """Runs a forward so that its backward puts gradients of weights aside, in order, for `do`."""

    def __init__(
        self, made: Callable[[nn.Parameter], None] = lambda _: None, whole: Callable[[nn.Parameter], None] = lambda _: None
    ) -> None:
        super().__init__()
        self.tasks: deque[Task] = deque()
        # Called with each parameter that got a gradient, and once it gets no more; of those autograd makes hooks tell.
        self.made, self.whole = made, whole

    def put(self, weight: nn.Parameter, task: Callable[[torch.Tensor | None], torch.Tensor]) -> None:
        """Put one aside."""
        self.tasks.append((weight, task))

    def do(self) -> None:
        """Add what was put aside to the parameters' gradients."""
        left = Counter(id(weight) for weight, _ in self.tasks)
        while self.tasks:
            weight, task = self.tasks.popleft()
            with torch.no_grad():
                weight.grad = task(weight.grad)
            self.made(weight)
            left[id(weight)] -= 1
            if not left[id(weight)]:
                self.whole(weight)

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Replaces the products."""
        kwargs = kwargs or {}
        if torch.is_grad_enabled() and not kwargs:
            if func is F.linear and _trainable(args[1]):
                return _Linear.apply(args[0], args[1], _at(args, 2, None), self)  # type: ignore[no-untyped-call]
            if func is torch.addmm and len(args) == 3 and _trainable(args[2]):
                return _Product.apply(args[1], args[2], args[0], self)  # type: ignore[no-untyped-call]
            if func in _CONVOLUTIONS and _trainable(args[1]) and not isinstance(_at(args, 4, 0), str):
                return self._convolution(_CONVOLUTIONS[func], args)
        return func(*args, **kwargs)

    def _convolution(self, dimensions: int, args: tuple[Any, ...]) -> Any:
        how = [_as_list(_at(args, at, default), dimensions) for at, default in ((3, 1), (4, 0), (5, 1))]
        rest = (*how, _at(args, 6, 1))
        return _Convolution.apply(args[0], args[1], _at(args, 2, None), rest, self)  # type: ignore[no-untyped-call]


_CONVOLUTIONS: dict[Any, int] = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}


def _trainable(weight: Any) -> bool:
    return isinstance(weight, nn.Parameter) and weight.requires_grad


def _at(args: tuple[Any, ...], position: int, default: Any) -> Any:
    return args[position] if len(args) > position else default


def _as_list(value: Any, dimensions: int) -> list[int]:
    found = [value] if isinstance(value, int) else list(value)
    return found * dimensions if len(found) == 1 else found
