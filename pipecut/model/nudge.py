"""Another last bit of each parameter: how far results then move is how far rounding goes."""

import math

import torch
from torch import nn

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def nudge(model: nn.Module, precision: str, seed: int) -> None:
    """Move each element of each parameter to one of the numbers next to it in the precision."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                numbers = parameter.to(DTYPES.get(precision, parameter.dtype))
                parameter.copy_(_neighbour(numbers, generator))


def _neighbour(numbers: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    up = torch.randint(0, 2, numbers.shape, generator=generator, dtype=torch.bool)
    limits = torch.where(up, math.inf, -math.inf).to(numbers)
    return torch.nextafter(numbers, limits)
