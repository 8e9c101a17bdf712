"""Where a model's forward first does something that its graph does not."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipecut.model.comparison import wide
from pipecut.model.functions import is_machinery

# Relative difference of the sums of two results that counts as one.
CLOSE = 1e-3


@dataclass(frozen=True)
class Result:
    """A tensor that an operator made: its form, its sums, and where the model asked for it."""

    operator: str
    form: tuple[Any, ...]
    sums: tuple[float, float]
    place: str

    def is_like(self, other: "Result") -> bool:
        """Whether two results have one form and the same values as far as their sums tell."""
        scale = max(self.sums[1], other.sums[1])
        return self.form == other.form and all(
            math.isclose(a, b, rel_tol=CLOSE, abs_tol=CLOSE * scale) or a == b or a != a and b != b
            for a, b in zip(self.sums, other.sums, strict=True)
        )


class Recorder(TorchDispatchMode):
    """Keeps what every operator makes; `names` are those of the model's modules, by identity."""

    def __init__(self, names: dict[int, str] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = names
        self.results: list[Result] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.numel():
                place = _place(self.names) if self.names is not None else ""
                form = (tuple(tensor.shape), tensor.dtype)
                self.results.append(Result(str(func), form, _sums(tensor), place))
        return result


def _sums(tensor: torch.Tensor) -> tuple[float, float]:
    """The sum with weights that differ from element to element, and that of absolute values."""
    flat = wide(tensor.detach()).flatten()
    if flat.is_complex():
        flat = torch.view_as_real(flat).flatten()
    weights = torch.linspace(0.5, 1.5, flat.numel(), dtype=torch.float64)
    return float((flat * weights).sum()), float(flat.abs().sum())


def _place(names: dict[int, str]) -> str:
    """Module and file:line of the user's code that runs now."""
    frame: FrameType | None = sys._getframe(2)
    line = module = ""
    while frame is not None and not (line and module):
        path = frame.f_code.co_filename
        if not line and not is_machinery(path):
            line = f"{path}:{frame.f_lineno}"
        owner = frame.f_locals.get("self")
        if not module and frame.f_code.co_name == "forward" and isinstance(owner, nn.Module):
            module = names.get(id(owner), "")
        frame = frame.f_back
    return " ".join(filter(None, (module and f"in '{module}'", line and f"({line})")))


def first_difference(
    model: nn.Module, run_model: Callable[[], Any], run_graph: Callable[[], Any]
) -> str:
    """The first operator of the model whose result no operator of the graph has.

    Both functions run a forward; "" where each result is there.
    """
    names = {id(module): name for name, module in model.named_modules()}
    with Recorder() as of_graph:
        run_graph()
    with Recorder(names) as of_model:
        run_model()
    there: dict[Any, list[Result]] = {}
    for result in of_graph.results:
        there.setdefault(result.form, []).append(result)
    for result in of_model.results:
        if not any(result.is_like(other) for other in there.get(result.form, ())):
            return f"{result.operator} {result.place}".rstrip()
    return ""
