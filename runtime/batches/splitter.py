"""This replica's microbatches of a global batch, on its device, with their parts of the loss."""

from collections.abc import Mapping
from typing import Any

import torch

from pipecut.errors import RunError
from pipecut.plan.schema import Plan
from pipecut.runtime.batches.microbatches import Microbatch, count_microbatches, divided
from pipecut.runtime.engine.engine import Work
from pipecut.runtime.health.rank_errors import naming_errors
from pipecut.runtime.ranks.world import World

Tensors = dict[str, torch.Tensor]
# A global batch as the user gives it: tensors, or lists of one for each microbatch.
Given = Mapping[str, Any]


class BatchSplitter:
    """Splits global batches as a plan says."""

    def __init__(self, plan: Plan, world: World) -> None:
        self.plan, self.world = plan, world
        stages = [s for s in plan.stages if s.pipeline_rank == world.pipeline_rank]
        self.needed = {name for stage in stages for name in stage.batch_inputs}

    def for_step(self, batch: Given, scale: float) -> Work:
        """Microbatches of a batch of the plan's global size. Raises RunError for another one."""
        parts = self._divided(batch)
        if len(parts) != self.plan.microbatches * self.plan.replicas:
            raise self._wrong_size(sum(part.sizes["batch"] for part in parts))
        return self._work(parts, self._weights(parts), self.plan.microbatches, scale)

    def for_evaluation(self, batch: Given, by_samples: bool = False) -> Work:
        """Microbatches of a batch of any size; each replica has as many, but for the last ones.

        Their parts of the loss are those of their samples where `by_samples`, which needs no
        labels. Raises RunError for an empty batch, or one that the model's fixed batch size does
        not divide.
        """
        parts = self._divided(batch)
        samples = [part.sizes["batch"] for part in parts]
        weights = [n / sum(samples) for n in samples] if by_samples else self._weights(parts)
        share = -(-len(parts) // self.plan.replicas)
        return self._work(parts, weights, share, scale=1.0)

    def _divided(self, batch: Given) -> list[Microbatch]:
        with naming_errors(f"rank {self.world.rank}"):
            parts = divided(self.plan, batch)
        if not parts:
            raise self._wrong_size(0)
        size, last = self.plan.batch.microbatch, parts[-1].sizes["batch"]
        if not self.plan.batch.dynamic and last != size:
            count = sum(part.sizes["batch"] for part in parts)
            raise RunError(
                f"rank {self.world.rank}: the model fixes its batch size: "
                f"{count} samples are no multiple of {size}"
            )
        return parts

    def _wrong_size(self, count: int) -> RunError:
        plan, size = self.plan, self.plan.batch.microbatch
        microbatches = count_microbatches(plan, count)
        return RunError(
            f"rank {self.world.rank}: a batch of {count} is {microbatches} microbatches of {size}, "
            f"the schedule has {plan.microbatches * plan.replicas}; give "
            f"{plan.batch.global_size} samples, or compile for another batch"
        )

    def _weights(self, parts: list[Microbatch]) -> list[float]:
        samples = [part.sizes["batch"] for part in parts]
        with naming_errors(f"rank {self.world.rank}"):
            return self.plan.batch.weights([part.tensors for part in parts], samples)

    def _work(
        self, parts: list[Microbatch], weights: list[float], share: int, scale: float
    ) -> Work:
        """Those of this replica, of which each has at most `share`."""
        first = self.world.replica * share
        own = parts[first : first + share]
        microbatches: list[Tensors] = [{} for _ in own]
        for name in self.needed:
            moved = self._moved([part.tensors[name] for part in own])
            for microbatch, tensor in zip(microbatches, moved, strict=True):
                microbatch[name] = tensor
        sizes = [part.sizes for part in own]
        return Work(microbatches, sizes, weights[first : first + share], first, scale)

    def _moved(self, parts: list[torch.Tensor]) -> list[torch.Tensor]:
        """On the device; an input that every microbatch has whole is moved once."""
        if len(parts) > 1 and parts[0] is parts[1]:
            return [parts[0].to(self.world.device, non_blocking=True)] * len(parts)
        return [part.to(self.world.device, non_blocking=True) for part in parts]
