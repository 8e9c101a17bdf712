"""Between the batches that ranks compare whole: a sample of every batch, in one small message.

Ranks whose batches differ in lengths would wait for messages that have another size; ranks whose
batches differ in values would train on inputs and labels that do not belong together.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from pipecut.device.local import on_cpu
from pipecut.device.types import type_of

# Elements of a tensor that are looked at, and tensors of a list, beside the shapes of all.
ELEMENTS, TENSORS = 512, 32
# Less than any sample, which has 62 bits.
NO_SAMPLE = -(2**62)


@dataclass(frozen=True)
class Replicas:
    """The replica whose batches are to be alike, and how many have batches of their own."""

    own: int = 0
    count: int = 1


def sample_of(call: str, batch: Mapping[str, Any], number: int) -> int:
    """Names, shapes and dtypes of a batch's tensors and some of their values, as a number.

    `call` is what the batch is for, `number` says which values are looked at. Those on a device are
    not: they would be waited for.
    """
    digest = hashlib.sha256(call.encode())
    for name, given in sorted(batch.items()):
        listed = isinstance(given, list | tuple)
        tensors = [t for t in (given if listed else [given]) if isinstance(t, torch.Tensor)]
        if not tensors:
            # The plan itself is compared with what is no tensor.
            continue
        shapes = [(str(tensor.dtype), *tensor.shape) for tensor in tensors]
        digest.update(repr((name, shapes)).encode())
        for tensor in _some(tensors, TENSORS, number):
            if on_cpu(tensor) and tensor.numel():
                digest.update(_values(tensor.detach(), number))
    return int.from_bytes(digest.digest()[:8], "big") >> 2


def _some(values: list[torch.Tensor], most: int, number: int) -> Iterator[torch.Tensor]:
    step = -(-len(values) // most) or 1
    return iter(values[number % step :: step])


def _values(tensor: torch.Tensor, number: int) -> bytes:
    """Some of a tensor's values, whatever its layout in memory is."""
    count = tensor.numel()
    step = -(-count // ELEMENTS)
    places = torch.arange(number % step, count, step)
    if tensor.is_contiguous():
        chosen = tensor.view(-1)[places]
    else:
        chosen = tensor[torch.unravel_index(places, tensor.shape)]
    plain = torch.view_as_real(chosen.resolve_conj()) if chosen.is_complex() else chosen
    return bytes(plain.resolve_neg().contiguous().view(torch.uint8).numpy())


class SampledBatches:
    """Shares samples with all ranks; says whether those of some replica differ."""

    def __init__(self, device: torch.device, reduce: Callable[..., Any] = dist.all_reduce) -> None:
        self.device, self.reduce = device, reduce
        self.of_host = type_of(device.type).of_host

    def shared(self, sample: int, replicas: Replicas) -> torch.Tensor:
        """The largest and the least sample of each replica, on the device; all ranks call it."""
        slots = torch.full((replicas.count, 2), NO_SAMPLE, dtype=torch.int64)
        slots[replicas.own] = torch.tensor([sample, -sample])
        slots = slots.to(self.device)
        self.reduce(slots, op=dist.ReduceOp.MAX)
        return slots


def differ(shared: torch.Tensor) -> bool:
    """Whether ranks of some replica have different samples; waits for the device."""
    largest, negative_least = shared.cpu().unbind(1)
    return bool((largest != -negative_least).any())
