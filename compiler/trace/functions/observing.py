"""What a traced call of an autograd.Function does beside making tensors, seen on fake ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pipecut.compiler.graph import Value
from pipecut.compiler.operators.autograd_functions import AutogradFunction
from pipecut.compiler.trace.functions.calling import run
from pipecut.errors import TraceError
from pipecut.model.draws import CountDraws


@dataclass(frozen=True)
class Observed:
    """By result: whether a gradient reaches it, and the positions of the tensors it shares
    storage with. `draws` counts the random draws of a call; `gives_none` has the positions of
    tensors that need a gradient and get none.
    """

    needs_grad: tuple[bool, ...]
    shared: tuple[tuple[int, ...], ...]
    draws: int
    gives_none: tuple[int, ...]


@dataclass(frozen=True)
class Look:
    """A tensor for one microbatch."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    needs_grad: bool

    @staticmethod
    def of(value: Value, with_gradients: bool) -> "Look":
        """A value's."""
        dtype = getattr(torch, value.dtype)
        return Look(value.sizes, value.strides, dtype, value.needs_grad and with_gradients)

    def fake(self) -> torch.Tensor:
        """No leaf, as what a model computes is none."""
        tensor = torch.empty_strided(self.sizes, self.strides, dtype=self.dtype)
        return tensor.requires_grad_().clone() if self.needs_grad else tensor


def observe(
    target: str, arguments: str, looks: Sequence[Look], sizes: Sequence[Any], where: str
) -> Observed:
    """Raises TraceError for a call that writes to its arguments, or draws while it goes back."""
    function = AutogradFunction.of_target(target)
    any_grad = any(look.needs_grad for look in looks)
    with FakeTensorMode(), torch.set_grad_enabled(any_grad):
        tensors = [look.fake() for look in looks]
        versions = [tensor._version for tensor in tensors]
        with CountDraws() as forward:
            results = run(target, arguments, tensors, sizes)
        if [tensor._version for tensor in tensors] != versions:
            raise TraceError(
                f"{function}, a torch.autograd.Function, writes to what it is given{where}, which "
                "no stage can undo when it runs again; let it write to a copy (.clone())"
            )
        storages = [tensor.untyped_storage()._cdata for tensor in tensors]
        shared = tuple(
            tuple(at for at, storage in enumerate(storages) if storage == _storage(result))
            for result in results
        )
        wanted = [result for result in results if result.requires_grad]
        with CountDraws() as backward:
            gives_none = _without_gradient(wanted, tensors)
    if backward.count:
        raise TraceError(
            f"{function}, a torch.autograd.Function, draws random numbers in its backward{where}, "
            "and a plan seeds what forward draws only; draw them in its forward, and keep them "
            "with ctx.save_for_backward"
        )
    needs_grad = tuple(result.requires_grad for result in results)
    return Observed(needs_grad, shared, forward.count, gives_none)


def _storage(tensor: torch.Tensor) -> Any:
    return tensor.untyped_storage()._cdata


def _without_gradient(
    results: Sequence[torch.Tensor], tensors: Sequence[torch.Tensor]
) -> tuple[int, ...]:
    """Positions of tensors that backward gives None; a backward may take real tensors only."""
    needing = [at for at, tensor in enumerate(tensors) if tensor.requires_grad]
    if not results or not needing:
        return tuple(needing)
    given = [torch.ones_like(result) for result in results]
    try:
        gradients = torch.autograd.grad(
            list(results), [tensors[at] for at in needing], given, allow_unused=True
        )
    except Exception:
        return ()
    return tuple(at for at, gradient in zip(needing, gradients, strict=True) if gradient is None)
