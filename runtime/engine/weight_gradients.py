"""Gradients of weights that come later (ZB-H1's and v-shaped's W).

A product's backward computes the gradient of its input, and puts that of its weight aside. While a
stage runs under `WeightGradStore`, functions of DEFERRED whose weight is a trainable parameter are
replaced by ones that do so, where `_deferrable` knows all their arguments. Everything else of a
backward - biases, norms, embeddings, complex numbers, what runs under autocast - comes at once.
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

# Operators by name, as the graph has them.
DEFERRED = ("linear", "addmm", "conv1d", "conv2d", "conv3d")
# Adds a weight's gradient to the one there is, in place where it can.
AddGradient = Callable[[torch.Tensor | None], torch.Tensor]


@dataclass(frozen=True)
class Task:
    """A parameter's gradient that is to be computed."""

    weight: nn.Parameter
    add: AddGradient


def _product(rows: torch.Tensor, columns: torch.Tensor) -> AddGradient:
    """A product that is added by the kernel that computes it."""

    def add(gradient: torch.Tensor | None) -> torch.Tensor:
        if gradient is None:
            return rows @ columns
        # The gradient of an embedding may be sparse.
        if gradient.layout != torch.strided:
            return rows @ columns + gradient
        return gradient.addmm_(rows, columns)

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
        # Autograd then refuses a weight that was written between the two.
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
        options: tuple[Any, ...],
        tasks: "WeightGradStore",
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.weight, ctx.options, ctx.tasks = weight, options, tasks
        stride, padding, dilation, groups = options
        return torch.convolution(
            x, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups
        )

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x, _), weight, gradient = ctx.saved_tensors, ctx.weight, gradients[0]
        stride, padding, dilation, groups = ctx.options
        no_output_padding = [0] * len(stride)
        options = ([weight.shape[0]], stride, padding, dilation, False, no_output_padding, groups)
        backward = torch.ops.aten.convolution_backward.default

        def of_weight(earlier: torch.Tensor | None) -> torch.Tensor:
            only_weight = [False, True, False]
            added: torch.Tensor = backward(gradient, x, weight, *options, only_weight)[1]
            if earlier is None:
                return added
            return earlier.add_(added) if earlier.layout == torch.strided else added + earlier

        ctx.tasks.put(weight, of_weight)
        needs = ctx.needs_input_grad
        into, _, bias = backward(gradient, x, weight, *options, [needs[0], False, needs[2]])
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
        # Set while a module of the user's runs as it is: nothing of its backward comes later.
        self.suspended = False
        # In place of the hooks of gradients that autograd makes: called each time a parameter's
        # gradient was added to, and once when it gets no more.
        self.gradient_added, self.gradient_ready = gradient_added, gradient_ready
        # How many of a parameter's hooks are the runtime's own.
        self.own_hooks = own_hooks or {}

    def put(self, weight: nn.Parameter, add: AddGradient) -> None:
        """Put the computation of a gradient aside."""
        self.tasks.append(Task(weight, add))

    @property
    def weights(self) -> set[nn.Parameter]:
        """The parameters whose gradients are not whole yet."""
        return {task.weight for task in self.tasks}

    def do(self) -> None:
        """Add what was put aside to the parameters' gradients."""
        pending = Counter(task.weight for task in self.tasks)
        while self.tasks:
            task = self.tasks.popleft()
            weight = task.weight
            with torch.no_grad():
                weight.grad = task.add(weight.grad)
            self.gradient_added(weight)
            pending[weight] -= 1
            if not pending[weight]:
                self.gradient_ready(weight)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Replace the products whose weight's gradient may come later."""
        as_it_is = bool(kwargs) or self.suspended
        deferred = None if as_it_is else self._deferred(func, args)
        return deferred() if deferred is not None else func(*args, **(kwargs or {}))

    def _deferred(self, func: Any, args: tuple[Any, ...]) -> Callable[[], Any] | None:
        """The call in a product's place, or None where it is to be computed as it is."""
        at = _WEIGHT.get(func)
        if at is None or len(args) <= at or not torch.is_grad_enabled():
            return None
        is_addmm, weight = func is torch.addmm, args[at]
        x, added = args[1 if is_addmm else 0], args[0] if is_addmm else _at(args, 2, None)
        if not self._deferrable(weight, x, added):
            return None
        if is_addmm:
            # With a fourth argument sums are scaled.
            return partial(_apply, _Product, x, weight, added, self) if len(args) == 3 else None
        if added is not None and added.dim() != 1:
            return None
        if func is F.linear:
            fits = x.dim() >= 2 and weight.dim() == 2
            return partial(_apply, _Linear, x, weight, added, self) if fits else None
        dimensions = _CONVOLUTIONS[func]
        # Padding may be "same", of which a backward knows nothing.
        if x.dim() != dimensions + 2 or isinstance(_at(args, 4, 0), str):
            return None
        stride, padding, dilation = (
            _as_list(_at(args, position, default), dimensions)
            for position, default in ((3, 1), (4, 0), (5, 1))
        )
        options = (stride, padding, dilation, _at(args, 6, 1))
        return partial(_apply, _Convolution, x, weight, added, options, self)

    def _deferrable(self, weight: Any, x: Any, added: Any) -> bool:
        """Whether a weight's gradient may come later: real numbers of one kind, no user's hook."""
        if not isinstance(weight, nn.Parameter) or not weight.requires_grad:
            return False
        if not weight.dtype.is_floating_point:
            return False
        for tensor in (weight, x, added):
            if tensor is not None and not _is_like(tensor, weight):
                return False
        # Only autograd calls a user's hooks.
        hooks = weight._post_accumulate_grad_hooks
        hooked = weight._backward_hooks or len(hooks or ()) > self.own_hooks.get(weight, 0)
        return not hooked and not torch.is_autocast_enabled(weight.device.type)


_CONVOLUTIONS: dict[Any, int] = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
# Where each takes its weight.
_WEIGHT: dict[Any, int] = {F.linear: 1, torch.addmm: 2, **dict.fromkeys(_CONVOLUTIONS, 1)}
# The compiler tries stages on fake tensors; other subclasses compute as they like.
_PLAIN = (torch.Tensor, nn.Parameter, FakeTensor)


def _is_like(tensor: Any, weight: nn.Parameter) -> bool:
    plain = type(tensor) in _PLAIN and tensor.layout == torch.strided
    return plain and tensor.dtype == weight.dtype and tensor.device == weight.device


def _apply(function: Any, *args: Any) -> Any:
    return function.apply(*args)


def _at(args: tuple[Any, ...], position: int, default: Any) -> Any:
    return args[position] if len(args) > position else default


def _as_list(value: Any, dimensions: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * dimensions if len(values) == 1 else values
