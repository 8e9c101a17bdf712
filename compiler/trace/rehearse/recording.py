"""What a forward does, call by call, so that two forwards can be compared while they run.

A call counts where its result depends on the batch, on parameters, on buffers or on random
numbers. What is made of numbers alone may be made once and kept: it counts by what it was made of,
where such a call takes it. So a table that the first forward fills is the same in both.
"""

import hashlib
import re
import sys
from collections.abc import Iterable
from types import FrameType
from typing import Any

import numpy
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from pipecut.model.draws import may_draw
from pipecut.model.functions import running_user_frame

# How torch names a size that depends on data, anew in each forward.
OF_DATA = re.compile(r"\bu\d+\b")
# Markers of another kind of values among arguments.
PLAIN = (bool, int, float, complex, str, bytes, type(None))


class OtherCall(Exception):
    """The second forward does something else: what, where, and what the first one did."""

    def __init__(self, now: str, before: str, place: str) -> None:
        super().__init__(f"{now} {place}, where the first does {before}")
        self.now, self.before, self.place = now, before, place


class Recording(TorchFunctionMode):
    """Notes the calls of one forward; compares them with those of `first` where that is given.

    `given` are tensors that calls depend on from the beginning. Raises OtherCall at the first
    difference.
    """

    def __init__(self, given: Iterable[torch.Tensor], first: "Recording | None" = None) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.first = first
        # Tensors are kept by identity beside what is known of them, so that none takes another's.
        self.dependent: dict[int, tuple[torch.Tensor, int]] = {}
        self.constant: dict[int, tuple[torch.Tensor, str]] = {}
        self.stale: dict[int, torch.Tensor] = {}
        # Sizes that depend on data, by their order in this forward.
        self.sizes: dict[str, str] = {}
        if first is not None:
            self.constant = first.constant
            self.stale = {key: tensor for key, (tensor, _) in first.dependent.items()}
        for tensor in given:
            self.stale.pop(id(tensor), None)
            self._depends(tensor)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(getattr(func, "__name__", func))
        if name in ("__get__", "__set__"):
            # Of attributes only tensors matter, as `x.T`.
            result = func(*args, **kwargs)
            if name == "__set__" or not isinstance(result, torch.Tensor):
                return result
            name, func = str(getattr(func.__self__, "__name__", name)), lambda *_, **__: result
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        counts = may_draw(func) or any(
            id(t) in self.dependent or id(t) in self.stale for t in tensors
        )
        text = f"{name}({', '.join(map(self._argument, leaves))})"
        text = OF_DATA.sub(lambda size: self._size(size[0]), text)
        if counts:
            self._note(text)
        result = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if result is None and tensors and name.endswith("__setitem__"):
            made = tensors[:1]
        for number, tensor in enumerate(made):
            if counts:
                self._depends(tensor)
            elif id(tensor) not in self.dependent:
                print_of = hashlib.blake2b(f"{number} {text}".encode(), digest_size=8).hexdigest()
                self.constant[id(tensor)] = tensor, print_of
        return result

    def end(self) -> None:
        """Raises OtherCall where the first forward did more."""
        if self.first is not None and len(self.first.calls) > len(self.calls):
            raise OtherCall("ends", self.first.calls[len(self.calls)], "")

    def _depends(self, tensor: torch.Tensor) -> None:
        self.dependent.setdefault(id(tensor), (tensor, len(self.dependent)))
        self.stale.pop(id(tensor), None)

    def _argument(self, leaf: Any) -> str:
        if isinstance(leaf, torch.Tensor):
            if id(leaf) in self.dependent:
                return f"tensor {self.dependent[id(leaf)][1]} {list(leaf.shape)}"
            if id(leaf) in self.stale:
                return f"a tensor {list(leaf.shape)} that the forward before made"
            known = self.constant.get(id(leaf))
            # What no function made, such as a tensor of a global, is known by its form.
            return f"constant {known[1]}" if known else f"tensor {list(leaf.shape)} of elsewhere"
        if isinstance(leaf, numpy.ndarray):
            data = leaf.tobytes() if leaf.dtype != object else b""
            return f"array {hashlib.blake2b(data, digest_size=8).hexdigest()}"
        is_plain = isinstance(leaf, (*PLAIN, torch.dtype, torch.device, torch.Size))
        return repr(leaf) if is_plain else type(leaf).__name__

    def _size(self, of_data: str) -> str:
        return self.sizes.setdefault(of_data, f"size {len(self.sizes)} of data")

    def _note(self, call: str) -> None:
        number = len(self.calls)
        self.calls.append(call)
        if self.first is None:
            return
        before = self.first.calls[number] if number < len(self.first.calls) else "nothing more"
        if call != before:
            raise OtherCall(call, before, user_line(sys._getframe(2)))


def user_line(frame: FrameType | None) -> str:
    """(file:line) of the user's code around a frame."""
    user = running_user_frame(frame)
    return f"({user.f_code.co_filename}:{user.f_lineno})" if user is not None else ""
