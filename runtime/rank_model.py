"""What one rank holds of the model: its stages as modules, and their values."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from pipecut.errors import RunError
from pipecut.plan.part.read import PlanPart
from pipecut.runtime.engine.regions import compile_regions
from pipecut.runtime.engine.stage import build_module
from pipecut.runtime.engine.warm import warm
from pipecut.runtime.gradients.masters import Masters
from pipecut.runtime.gradients.parameters import RankParameter, by_name, rank_parameters
from pipecut.runtime.gradients.shards import Shards, shard
from pipecut.runtime.gradients.tied import share_tied
from pipecut.runtime.gradients.user_changes import check_unchanged, load_value
from pipecut.runtime.health.rank_errors import naming_errors
from pipecut.runtime.ranks.first_values import fill
from pipecut.runtime.ranks.frozen_values import refuse_other_values, with_only
from pipecut.runtime.ranks.world import World


class RankModel:
    """This rank's modules, parameters and buffers.

    With `restoring` parameters get no values: what would be drawn or read, a checkpoint has.
    """

    def __init__(self, part: PlanPart, world: World, restoring: bool = False) -> None:
        self.plan, self.world = part.plan, world
        self.stages = [s for s in self.plan.stages if s.pipeline_rank == world.pipeline_rank]
        self.modules = {
            stage.index: build_module(part.path, self.plan, stage, world.device)
            for stage in self.stages
        }
        share_tied(self.plan, self.modules)
        parameters = rank_parameters(self.plan, world, self.modules)
        self.values_missing = restoring and bool(parameters)
        self.buffers = {
            name: buffer
            for module in self.modules.values()
            for name, buffer in module.named_buffers(remove_duplicate=False)
        }
        if not restoring:
            self._fill(parameters)
        if self.plan.compile == "inductor":
            for module in self.modules.values():
                compile_regions(module, self.plan.batch.dynamic, bool(self.plan.batch.lengths))
        shard(parameters, self.plan.shards, world.replica)
        self.parameters = tuple(parameters)
        self.masters = Masters(self.parameters)
        self.shards = Shards(world, self.parameters)
        self.masters.refresh()
        warm(self.plan, self.stages, self.modules, self.masters, world.device)

    def _fill(self, parameters: list[RankParameter]) -> None:
        masters = {name: p.master for name, p in by_name(parameters).items()}
        fill(self.plan, self.stages, {**self.buffers, **masters}, self.world.rank)

    def take_frozen(self, where: str, digests: Mapping[str, str]) -> None:
        """Have the plan's values of frozen parameters that the checkpoint at `where` leaves out.

        Raises CheckpointError where these are others than it has digests of.
        """
        left_out = [parameter for parameter in self.parameters if parameter.name in digests]
        if not left_out:
            return
        if self.values_missing:
            tensors = {name: p.model for name, p in by_name(left_out).items()}
            fill(self.plan, with_only(digests, self.stages), tensors, self.world.rank)
        origin = self.plan.model.weights or self.plan.model.factory
        values = {parameter.name: parameter.model for parameter in left_out}
        refuse_other_values(where, digests, values, origin)

    @property
    def stored_buffers(self) -> dict[str, torch.Tensor]:
        """Buffers that a checkpoint has: of the model's state dict, or written by its forward."""
        buffers = [buffer for stage in self.stages for buffer in stage.buffers]
        stored = [buffer.names[0] for buffer in buffers if buffer.persistent or buffer.written]
        return {name: self.buffers[name] for name in stored}

    def refresh(self) -> None:
        """Bring what the optimizer changed into the stages.

        Raises RunError where there are no values yet, and for changes that stages cannot follow.
        """
        where = f"rank {self.world.rank}"
        if self.values_missing:
            name = min(name for parameter in self.parameters for name in parameter.names)
            raise RunError(
                f"{where}: {name} has no value yet, since the plan was loaded for restoring; "
                "restore a checkpoint first, or load without restoring=True"
            )
        with naming_errors(where):
            check_unchanged(self.parameters, self.masters.written())
        self.masters.refresh()
        with naming_errors(f"{where}, gathering parameters of other replicas"):
            self.shards.gather()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What the optimizer has of each parameter, by its first name."""
        for parameter in self.parameters:
            yield parameter.name, parameter.stepped

    def state_dict(self) -> dict[str, Any]:
        """The modules' state dicts, under the original names."""
        return {
            name: tensor
            for module in self.modules.values()
            for name, tensor in module.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take parameters (this replica's rows) and persistent buffers. Raises RunError."""
        values = {parameter.name: parameter.stepped for parameter in self.parameters}
        rows = {parameter.name: parameter.rows for parameter in self.parameters}
        with naming_errors(f"rank {self.world.rank}"):
            for stage in self.stages:
                for tensor in stage.parameters:
                    name = tensor.names[0]
                    load_value(state, tensor, values[name], rows[name])
            for tensor in (b for stage in self.stages for b in stage.buffers if b.persistent):
                load_value(state, tensor, self.buffers[tensor.names[0]], rows=None)
        self.values_missing = False

    def train(self, mode: bool) -> None:
        """As nn.Module.train, of every stage."""
        for module in self.modules.values():
            module.train(mode)
