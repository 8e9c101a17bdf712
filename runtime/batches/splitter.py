"""This replica's microbatches of a global batch, on its device, with their parts of the loss."""

import torch

from pipecut.errors import RunError
from pipecut.plan.schema import Plan
from pipecut.runtime.batches.microbatches import checked_batch, count_microbatches, split
from pipecut.runtime.engine.engine import Work
from pipecut.runtime.health.rank_errors import naming_errors
from pipecut.runtime.ranks.world import World

Tensors = dict[str, torch.Tensor]


class BatchSplitter:
    """Splits global batches as a plan says."""

    def __init__(self, plan: Plan, world: World) -> None:
        self.plan, self.world = plan, world
        stages = [s for s in plan.stages if s.pipeline_rank == world.pipeline_rank]
        self.needed = {name for stage in stages for name in stage.batch_inputs}

    def for_step(self, batch: Tensors, scale: float) -> Work:
        """Microbatches of a batch of the plan's global size. Raises RunError for another one."""
        tensors, count = self._checked(batch)
        samples = self._samples_per_microbatch(count)
        if len(samples) != self.plan.microbatches * self.plan.replicas:
            raise self._wrong_size(count)
        weights = self._weights(tensors, samples)
        return self._work(tensors, samples, weights, self.plan.microbatches, scale)

    def for_evaluation(self, batch: Tensors, by_samples: bool = False) -> Work:
        """Microbatches of a batch of any size; each replica has as many, but for the last ones.

        Their parts of the loss are those of their samples where `by_samples`, which needs no
        labels. Raises RunError for an empty batch, or one that the model's fixed batch size does
        not divide.
        """
        tensors, count = self._checked(batch)
        samples = self._samples_per_microbatch(count)
        weights = [n / count for n in samples] if by_samples else self._weights(tensors, samples)
        share = -(-len(samples) // self.plan.replicas)
        return self._work(tensors, samples, weights, share, scale=1.0)

    def _checked(self, batch: Tensors) -> tuple[Tensors, int]:
        with naming_errors(f"rank {self.world.rank}"):
            return checked_batch(self.plan, batch)

    def _samples_per_microbatch(self, count: int) -> list[int]:
        size = self.plan.batch.microbatch
        if not count:
            raise self._wrong_size(count)
        samples = [min(size, count - start) for start in range(0, count, size)]
        if not self.plan.batch.dynamic and samples[-1] != size:
            raise RunError(
                f"rank {self.world.rank}: the model fixes its batch size: "
                f"{count} samples are no multiple of {size}"
            )
        return samples

    def _wrong_size(self, count: int) -> RunError:
        plan, size = self.plan, self.plan.batch.microbatch
        microbatches = count_microbatches(plan, count)
        return RunError(
            f"rank {self.world.rank}: a batch of {count} is {microbatches} microbatches of {size}, "
            f"the schedule has {plan.microbatches * plan.replicas}; give "
            f"{plan.batch.global_size} samples, or compile for another batch"
        )

    def _weights(self, tensors: Tensors, samples: list[int]) -> list[float]:
        with naming_errors(f"rank {self.world.rank}"):
            return self.plan.batch.weights(tensors, samples)

    def _work(
        self, tensors: Tensors, samples: list[int], weights: list[float], share: int, scale: float
    ) -> Work:
        """Those of this replica, of which each has at most `share`."""
        first = self.world.replica * share
        of_replica = slice(first, first + share)
        microbatches: list[Tensors] = [{} for _ in samples[of_replica]]
        for name in self.needed:
            parts = split(self.plan, name, tensors[name], sum(samples))[of_replica]
            for microbatch, part in zip(microbatches, self._moved(parts), strict=True):
                microbatch[name] = part
        return Work(microbatches, samples[of_replica], weights[of_replica], first, scale)

    def _moved(self, parts: list[torch.Tensor]) -> list[torch.Tensor]:
        """On the device; an input that every microbatch has whole is moved once."""
        if len(parts) > 1 and parts[0] is parts[1]:
            return [parts[0].to(self.world.device, non_blocking=True)] * len(parts)
        return [part.to(self.world.device, non_blocking=True) for part in parts]
