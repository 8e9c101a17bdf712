"""Data parallelism: replicas of a stage sum their gradients once a step."""

import torch
import torch.distributed as dist
from torch import nn

from pipecut.runtime.world import World


class ReplicaGradients:
    """The parameters of this rank, whose gradients the same stages of other replicas have too."""

    def __init__(self, world: World, parameters: list[nn.Parameter]) -> None:
        self.world = world
        self.parameters = [p for p in parameters if p.requires_grad] if world.replicas > 1 else []
        self.before: list[torch.Tensor | None] = []

    def begin(self) -> None:
        """Put aside what earlier steps accumulated: it is summed already."""
        self.before = [parameter.grad for parameter in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None

    def reduce(self) -> None:
        """Sum over the replicas. Each microbatch's loss is weighted by its share of the whole batch, so a sum is the mean."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        works = [dist.all_reduce(gradient, group=self.world.peers, async_op=True) for gradient in gradients]
        for work in works:
            assert work is not None
            work.wait()
        for parameter, before in zip(self.parameters, self.before, strict=True):
            if before is not None:
                parameter.grad = before if parameter.grad is None else before + parameter.grad
