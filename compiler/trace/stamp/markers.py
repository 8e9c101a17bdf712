"""Operators that mark layers in a trace: where one begins and ends, and where one is stamped.

None of them computes. Lowering reads them and puts the layer's operators in their place.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.fx.node import has_side_effect

# begin, end: the tensors that a layer takes or makes, and the number of its call.
# Of a stamped layer, after its begin: a node for each that the whole trace has, then the body, and
# an out for each tensor that it makes.
_LIBRARY: Any = torch.library.Library("pipecut_trace", "DEF")  # type: ignore[no-untyped-call]
_SCHEMAS = {
    "layer_begin": "(Tensor[] tensors, int call) -> ()",
    "layer_end": "(Tensor[] tensors, int call) -> ()",
    "stamped_node": "(int call) -> ()",
    "stamped_body": "(Tensor[] tensors, int call) -> Tensor",
    "stamped_out": "(Tensor body, int call, int position) -> Tensor",
}
Like = Callable[[int, int], torch.Tensor]
# What the trace that runs now says of a stamped result: a tensor like it, by call and position.
_results: list[Like] = []


def _nothing(*_: Any) -> None:
    """What a marker does that makes no tensor."""


def _body(tensors: Sequence[torch.Tensor], call: int) -> torch.Tensor:
    _like(call, 0)
    return torch.empty(0)


def _out(body: torch.Tensor, call: int, position: int) -> torch.Tensor:
    like = _like(call, position)
    return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=like.device)


def _like(call: int, position: int) -> torch.Tensor:
    if not _results:
        raise RuntimeError("a marker of a layer runs in a trace only")
    return _results[-1](call, position)


def _unreal(*_: Any) -> Any:
    raise RuntimeError("a marker of a layer has no values")


_KERNELS: dict[str, Callable[..., Any]] = {
    "layer_begin": _nothing,
    "layer_end": _nothing,
    "stamped_node": _nothing,
    "stamped_body": _body,
    "stamped_out": _out,
}
for _name, _schema in _SCHEMAS.items():
    _LIBRARY.define(_name + _schema)
    _LIBRARY.impl(_name, _unreal, "CPU")
    torch.library.register_fake(f"pipecut_trace::{_name}", _KERNELS[_name], lib=_LIBRARY)

_OPERATORS: Any = torch.ops.pipecut_trace
BEGIN, END = _OPERATORS.layer_begin.default, _OPERATORS.layer_end.default
NODE, BODY = _OPERATORS.stamped_node.default, _OPERATORS.stamped_body.default
OUT = _OPERATORS.stamped_out.default
MARKERS = (BEGIN, END, NODE, BODY, OUT)
for _marker in (BEGIN, END, NODE):
    has_side_effect(_marker)


@contextmanager
def results_like(like: Like) -> Iterator[None]:
    """Around a trace: what its stamped results look like."""
    _results.append(like)
    try:
        yield
    finally:
        _results.pop()
