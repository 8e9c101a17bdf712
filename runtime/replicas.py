"""Data parallelism: replicas of a stage sum their gradients once a step.

A parameter's sum begins as soon as the last backward of its stage, or the last W, has made its gradient: the rest runs meanwhile.
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
        self.alone = {stage: [p for p in own if p.requires_grad] for stage, own in alone.items()} if several else {}
        self.single = {id(p) for own in self.alone.values() for p in own}
        self.parameters = [masters.of[id(p)] for p in masters.parameters if p.requires_grad] if several else []
        self.works: list[dist.Work] = []
        self.begun: set[int] = set()
        self.ending: int | None = None
        for stage, own in self.alone.items():
            for parameter in own:
                parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                    lambda made, stage=stage: self.made(made, stage)
                )

    def ends(self, stage: int | None) -> None:
        """What comes next is the last of this step to make gradients of the stage's parameters; None when it does not.

        Where it did, those of the stage are whole.
        """
        for parameter in self.alone.get(self.ending, []) if self.ending is not None else ():
            self._start(self.masters.of[id(parameter)])
        self.ending = stage

    def made(self, parameter: nn.Parameter, stage: int) -> None:
        """A parameter of a stage has a gradient to which the action that runs adds no more."""
        if self.ending == stage and id(parameter) in self.single:
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
