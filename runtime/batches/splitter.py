"""This replica's microbatches of a global batch, on its device, with their parts of the loss."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist

from pipecut.errors import RunError
from pipecut.plan.schema import Plan
from pipecut.runtime.batches.grouping import count_microbatches
from pipecut.runtime.batches.microbatches import Microbatch, divided
from pipecut.runtime.engine.engine import Work
from pipecut.runtime.health.rank_errors import naming_errors
from pipecut.runtime.ranks.world import World

Tensors = dict[str, torch.Tensor]
# A global batch as the user gives it: tensors, or lists of one for each microbatch.
Given = Mapping[str, Any]


class BatchSplitter:
    """Splits global batches as a plan says.

    `sharded` is whether a batch of a step is that of this replica alone, in place of the global
    one.
    """

    def __init__(self, plan: Plan, world: World) -> None:
        self.plan, self.world = plan, world
        stages = [s for s in plan.stages if s.pipeline_rank == world.pipeline_rank]
        self.needed = {name for stage in stages for name in stage.batch_inputs}
        # What the weights of the losses are counted in.
        self.counted = {plan.batch.terms.input} if plan.batch.terms else set()
        self.sharded = False

    def for_step(self, batch: Given, scale: float) -> Work:
        """Microbatches of a batch of the plan's global size, or of a smaller one.

        That, such as the last of an epoch, is spread over as many microbatches. Raises RunError for
        a larger one, for one of fewer samples than microbatches, and for any other size where the
        model fixes it.
        """
        share = self.plan.microbatches
        wanted = share if self.sharded else share * self.plan.replicas
        parts = self._divided(batch, wanted)
        if len(parts) != wanted:
            raise self._wrong_size(sum(part.sizes["batch"] for part in parts))
        first = self.world.replica * share
        if self.sharded:
            return self._work(parts, self._weights_of_shard(parts), first, scale)
        of_replica = slice(first, first + share)
        return self._work(parts[of_replica], self._weights(parts)[of_replica], first, scale)

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
        first = self.world.replica * share
        of_replica = slice(first, first + share)
        return self._work(parts[of_replica], weights[of_replica], first, scale=1.0)

    def _divided(self, batch: Given, wanted: int = 0) -> list[Microbatch]:
        with naming_errors(f"rank {self.world.rank}"):
            parts = divided(self.plan, batch, wanted, self.needed | self.counted)
        if not parts:
            raise self._wrong_size(0)
        size = self.plan.batch.microbatch
        if not self.plan.batch.dynamic and any(part.sizes["batch"] != size for part in parts):
            count = sum(part.sizes["batch"] for part in parts)
            raise RunError(
                f"rank {self.world.rank}: the model fixes its batch size: "
                f"{count} samples are no multiple of {size}"
            )
        return parts

    def _wrong_size(self, count: int) -> RunError:
        plan, size = self.plan, self.plan.batch.microbatch
        microbatches = count_microbatches(plan, count)
        readers = 1 if not self.sharded else plan.replicas
        wanted = plan.microbatches * plan.replicas // readers
        subject = "a batch" if not self.sharded else "a replica's batch"
        remedy = f"give {plan.batch.global_size // readers} samples"
        if microbatches < wanted:
            remedy += f", at least {wanted}, or leave it out, as a DataLoader's drop_last does"
        return RunError(
            f"rank {self.world.rank}: {subject} of {count} is {microbatches} microbatches of "
            f"{size}, the schedule has {wanted}; {remedy}, or compile for another batch"
        )

    def _weights(self, parts: list[Microbatch]) -> list[float]:
        samples = [part.sizes["batch"] for part in parts]
        with naming_errors(f"rank {self.world.rank}"):
            return self.plan.batch.weights([part.tensors for part in parts], samples)

    def _weights_of_shard(self, parts: list[Microbatch]) -> list[float]:
        """Of this replica's microbatches among those of all replicas, which call it together."""
        samples = [part.sizes["batch"] for part in parts]
        if self.plan.batch.summed:
            return [1.0 for _ in samples]
        with naming_errors(f"rank {self.world.rank}"):
            counts = self.plan.batch.counts([part.tensors for part in parts], samples)
            summed = torch.tensor(sum(counts), device=self.world.device)
            if self.world.replica_group is not None:
                dist.all_reduce(summed, group=self.world.replica_group)
        total = int(summed)
        return [count / total for count in counts]

    def _work(self, own: list[Microbatch], weights: list[float], first: int, scale: float) -> Work:
        """The work of this replica's microbatches, of which `first` is the first of all."""
        microbatches: list[Tensors] = [{} for _ in own]
        for name in self.needed:
            moved = self._moved([part.tensors[name] for part in own])
            for microbatch, tensor in zip(microbatches, moved, strict=True):
                microbatch[name] = tensor
        sizes = [part.sizes for part in own]
        return Work(microbatches, sizes, weights, first, scale)

    def _moved(self, parts: list[torch.Tensor]) -> list[torch.Tensor]:
        """On the device; an input that every microbatch has whole is moved once."""
        if len(parts) > 1 and parts[0] is parts[1]:
            return [parts[0].to(self.world.device, non_blocking=True)] * len(parts)
        return [part.to(self.world.device, non_blocking=True) for part in parts]
