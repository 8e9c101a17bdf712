"""Dropout that depends on the seed, the step, the microbatch and its place in the model alone: not on who runs what.

Each call draws from a generator of its own, so that a model drops the same on any number of stages, and unsplit, and when it goes
on from a checkpoint. Other random operators draw from their rank's generator.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

# Where each takes its probability, and whether it trains; None where the probability is 0 when it does not.
_CALLS: dict[Any, tuple[int, str, int | None, str]] = {
    F.dropout: (1, "p", 2, "training"),
    F.scaled_dot_product_attention: (4, "dropout_p", None, ""),
}
# Their operators, and where each has its probability.
DROPPING = {"dropout": 1, "scaled_dot_product_attention": 4}


class Dropout(TorchFunctionMode):
    """While it is entered, the k-th call that drops something is the model's `places[k]`-th."""

    def __init__(self, seed: int, places: Sequence[int]) -> None:
        super().__init__()
        self.seed, self.places = seed, places
        self.step = self.microbatch = 0
        self.calls = 0

    def at(self, step: int, microbatch: int) -> "Dropout":
        """Begin a forward; microbatches are counted over all replicas."""
        self.step, self.microbatch, self.calls = step, microbatch, 0
        return self

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Gives what drops something its own generator."""
        kwargs = kwargs or {}
        if func not in _CALLS or not _drops(func, args, kwargs):
            return func(*args, **kwargs)
        place = self.places[self.calls] if self.calls < len(self.places) else self.calls
        self.calls += 1
        device = args[0].device
        text = f"{self.seed} {self.step} {self.microbatch} {place}"
        # Another draw must not begin where this one does.
        number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
        with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"):
            torch.manual_seed(number)
            return func(*args, **kwargs)


def _drops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    at, name, trains_at, trains = _CALLS[func]
    default = 0.5 if func is F.dropout else 0.0
    chance = args[at] if len(args) > at else kwargs.get(name, default)
    training = trains_at is None or (args[trains_at] if len(args) > trains_at else kwargs.get(trains, True))
    return bool(chance) and bool(training)
