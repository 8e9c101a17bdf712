"""Clip gradients by their norm over all stages."""

from collections.abc import Sequence

import torch
import torch.distributed as dist

from pipecut.runtime.gradients.parameters import RankParameter
from pipecut.runtime.health.rank_errors import naming_errors
from pipecut.runtime.ranks.world import World

# As in torch.nn.utils.clip_grad_norm_, which would divide by a norm of zero.
EPSILON = 1e-6


def clip_grad_norm(
    world: World, parameters: Sequence[RankParameter], max_norm: float
) -> torch.Tensor:
    """Multiply gradients by min(1, max_norm / (norm + 1e-6)). Returns the norm before.

    Tied parameters count once.
    """
    square = torch.zeros((), device=world.device)
    for parameter in parameters:
        gradient = parameter.stepped.grad
        if gradient is not None and parameter.is_owned_by(world.rank):
            # Every replica counts what all replicas have, and its own rows of the rest.
            counted = world.replicas if parameter.rows is None else 1
            square += gradient.detach().float().norm().square() / counted
    if world.size > 1:
        with naming_errors(f"rank {world.rank}, clipping gradients"):
            dist.all_reduce(square)
    norm = square.sqrt()
    scale = torch.clamp(max_norm / (norm + EPSILON), max=1.0)
    for parameter in parameters:
        if parameter.stepped.grad is not None:
            parameter.stepped.grad.mul_(scale.to(parameter.stepped.grad.dtype))
    return norm
