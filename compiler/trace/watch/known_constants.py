"""Constants a model makes while it is traced, with their values, so that it may branch on them.

nn.Transformer, for example, compares its mask with a causal one. A traced tensor has no value.
Beside the trace this mode computes tensors that depend on nothing but numbers and the batch size,
for several batch sizes, and answers where all agree.
"""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from pipecut.model.draws import may_draw

# Batch sizes that constants are computed for: what they agree on is taken to hold for any size.
BATCHES = (1, 2, 5)
# Bytes of values kept in one trace, all batch sizes together: a model may make a mask per layer.
MOST_BYTES = 2**29
READS = {
    torch.Tensor.__bool__,
    torch.Tensor.__int__,
    torch.Tensor.__float__,
    torch.Tensor.item,
    torch.equal,
    torch.allclose,
}


class KnownConstants(TorchFunctionMode):
    """Answers `bool(t)`, `t.item()` and the like for tensors that are known constants."""

    def __init__(self) -> None:
        super().__init__()
        # The traced tensor is kept, so that its id stays its own.
        self.known: dict[int, tuple[torch.Tensor, tuple[Any, ...]]] = {}
        self.bytes_left = MOST_BYTES

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        constant = all(id(t) in self.known for t in tensors) and not may_draw(func)
        if func in READS and tensors and constant:
            answers = self._compute(func, args, kwargs)
            if answers and all(answer == answers[0] for answer in answers):
                return answers[0]
        result = func(*args, **kwargs)
        if isinstance(result, torch.Tensor):
            values = self._compute(func, args, kwargs) if constant and self.bytes_left > 0 else ()
            self.known.pop(id(result), None)
            # The size is asked of the values: asking the traced tensor would guard on its batch.
            size = sum(value.numel() * value.element_size() for value in values)
            if values and size <= self.bytes_left:
                self.bytes_left -= size
                self.known[id(result)] = result, values
        if not constant and (name.endswith("_") or "out" in kwargs):
            for tensor in tensors:
                self.known.pop(id(tensor), None)
        return result

    def _compute(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, ...]:
        """The result for each of BATCHES; nothing where it cannot be computed outside the trace."""

        def value(leaf: Any, index: int) -> Any:
            if isinstance(leaf, torch.Tensor):
                return self.known[id(leaf)][1][index]
            if isinstance(leaf, torch.SymInt):
                expression = leaf.node.expr
                return int(expression.subs(dict.fromkeys(expression.free_symbols, BATCHES[index])))
            return leaf

        try:
            with _disable_current_modes(), torch._C.DisableTorchFunction():
                calls = [
                    tree_map(lambda leaf, i=i: value(leaf, i), (args, kwargs))
                    for i in range(len(BATCHES))
                ]
                return tuple(func(*a, **k) for a, k in calls)
        except Exception:
            return ()
