"""Data parallelism: replicas of a stage sum their gradients once a step.

A parameter's sum begins as soon as the last backward of its stage has made its gradient, while the rest of that backward runs.
"""

import torch.distributed as dist
from torch import nn

from pipecut.runtime.masters import Masters
from pipecut.runtime.shards import Shards


class ReplicaGradients:
    """The parameters of this rank, whose gradients the same stages of other replicas have too.

    `alone` has those of each stage that no other stage has: where the stage ends, their gradients are whole.
    """

    def __init__(self, replicas: int, masters: Masters, shards: Shards, alone: dict[int, list[nn.Parameter]]) -> None:
        self.masters, self.shards = masters, shards
        several = replicas > 1
        self.parameters = [masters.of[id(p)] for p in masters.parameters if p.requires_grad] if several else []
        self.works: list[dist.Work] = []
        self.begun: set[int] = set()
        self.ending: int | None = None
        for stage, own in alone.items() if several else ():
            for parameter in own:
                if parameter.requires_grad:
                    parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                        lambda made, stage=stage: self._made(made, stage)
                    )

    def ends(self, stage: int | None) -> None:
        """The backward that comes next is the stage's last of this step; None when it is over."""
        self.ending = stage

    def _made(self, parameter: nn.Parameter, stage: int) -> None:
        if self.ending == stage:
            self._start(self.masters.of[id(parameter)])

    def _start(self, parameter: nn.Parameter) -> None:
        if parameter.grad is not None and id(parameter) not in self.begun:
            self.works += self.shards.sum(parameter)
            self.begun.add(id(parameter))

    def reduce(self) -> None:
        """Sum over the replicas. Each microbatch's loss is weighted by its share of the whole batch, so a sum is the mean."""
        for parameter in self.parameters:
            self._start(parameter)
        for work in self.works:
            work.wait()
        self.works.clear()
        self.begun.clear()
        for parameter in self.parameters:
            self.shards.hand_over(parameter)
