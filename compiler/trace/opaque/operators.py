"""Operators that stand for opaque modules in a trace; lowering reads them, none ever runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

# tensors: what the module is given; held: its parameters and buffers; numbers: sizes that it is
# given; call: which call of which module, by its number in the trace; sizes: those of the batch.
_ARGUMENTS = "(Tensor[] tensors, Tensor[] held, SymInt[] numbers, int call, SymInt[] sizes)"
_LIBRARY: Any = torch.library.Library("pipecut", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(f"opaque.tensor{_ARGUMENTS} -> Tensor")
_LIBRARY.define(f"opaque.tensors{_ARGUMENTS} -> Tensor[]")
Results = Callable[[int, Sequence[Any]], list[torch.Tensor]]
# What the trace that runs now says of a call's results, for sizes of a batch.
_results: list[Results] = []


def _of_call(call: int, sizes: Sequence[Any]) -> list[torch.Tensor]:
    if not _results:
        raise RuntimeError("the operator of an opaque module runs in a trace only")
    return _results[-1](call, sizes)


def _tensors(
    tensors: Sequence[torch.Tensor], held: Any, numbers: Any, call: int, sizes: Any
) -> list[torch.Tensor]:
    return _of_call(call, sizes)


def _tensor(tensors: Any, held: Any, numbers: Any, call: int, sizes: Any) -> torch.Tensor:
    return _of_call(call, sizes)[0]


def _unreal(*_: Any) -> Any:
    raise RuntimeError("the operator of an opaque module has no values")


for _name, _fake in (("tensor", _tensor), ("tensors", _tensors)):
    _LIBRARY.impl(f"opaque.{_name}", _unreal, "CPU")
    torch.library.register_fake(f"pipecut::opaque.{_name}", _fake, lib=_LIBRARY)

TENSOR: Any = torch.ops.pipecut.opaque.tensor
TENSORS: Any = torch.ops.pipecut.opaque.tensors
OPAQUE = (TENSOR, TENSORS)


@contextmanager
def results_of_calls(results: Results) -> Iterator[None]:
    """Around a trace: what its opaque modules return."""
    _results.append(results)
    try:
        yield
    finally:
        _results.pop()
