"""What `pipecut.load` gives: this rank's stages behind the face of a module, with `step`."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from pipecut.device.work import fork_rng
from pipecut.errors import RunError
from pipecut.model.outputs import Outputs
from pipecut.plan.actions import splits_backward
from pipecut.plan.check import check
from pipecut.plan.folder import PlanFolder, read_plan
from pipecut.plan.forward_only import forward_only
from pipecut.plan.rows import Rows
from pipecut.plan.schema import Plan
from pipecut.runtime.checkpoint.saving import Saving
from pipecut.runtime.engine.batch_input import check_tensors
from pipecut.runtime.engine.engine import Engine, Work
from pipecut.runtime.engine.gather_outputs import gather_outputs
from pipecut.runtime.engine.microbatches import checked_batch, samples_in, shape_in_batch, split
from pipecut.runtime.engine.stage import RunningStage, build_module
from pipecut.runtime.engine.surroundings import on_own_terms
from pipecut.runtime.engine.transport import Transport
from pipecut.runtime.engine.warm import needs_warming, warm
from pipecut.runtime.gradients.masters import LossScale, Masters
from pipecut.runtime.gradients.replicas import ReplicaGradients
from pipecut.runtime.gradients.shards import Shards
from pipecut.runtime.gradients.tied import TiedGradients, share_tied
from pipecut.runtime.gradients.user_changes import check_unchanged, load_values
from pipecut.runtime.health.last_words import LastWords
from pipecut.runtime.health.rank_errors import naming_errors
from pipecut.runtime.health.status import State
from pipecut.runtime.health.timeouts import start_timeout
from pipecut.runtime.ranks.agreement import agree_to_start
from pipecut.runtime.ranks.channels import open_channels
from pipecut.runtime.ranks.first_values import fill, warn_of_changes
from pipecut.runtime.ranks.meeting import meet
from pipecut.runtime.ranks.messages import Messages
from pipecut.runtime.ranks.rendezvous import order_ranks
from pipecut.runtime.ranks.same_batches import SameBatches, seed_alike
from pipecut.runtime.ranks.world import World, join_world


@torch.inference_mode(False)
def load_pipeline(
    path: Path,
    device: str | None,
    messages: Messages | None = None,
    restoring: bool = False,
    alike: Mapping[str, str] | None = None,
) -> "Pipeline":
    """Read and check the plan, agree with the other ranks on it, join them, build and fill this rank's stages.

    `messages` is what carries tensors between ranks, torch.distributed where nothing is given. When
    `restoring` nothing is filled. `alike` has what else must be alike on all ranks.
    """
    order_ranks(timedelta(seconds=start_timeout()))
    meeting = meet()
    if meeting.size > 1:
        LastWords(meeting.rank).listen()
    try:
        folder = read_plan(path)
        check(folder)
        agree_to_start(meeting, folder, device, restoring, alike or {})
        world = join_world(folder.plan, device, meeting)
        if world.rank == 0:
            warn_of_changes(folder.plan)
        return Pipeline(folder, world, messages, restoring)
    except BaseException:
        meeting.fail()
        raise


class Pipeline:
    """This rank's part of a pipelined model."""

    def __init__(
        self,
        folder: PlanFolder,
        world: World,
        messages: Messages | None = None,
        restoring: bool = False,
    ) -> None:
        self.plan: Plan = folder.plan
        self.world = world
        mine = [s for s in self.plan.stages if s.pipeline_rank == world.pipeline_rank]
        self.modules = {
            s.index: build_module(folder.path, self.plan, s, world.device) for s in mine
        }
        share_tied(self.plan, self.modules)
        self.masters = Masters(
            (p for m in self.modules.values() for p in m.parameters()), filled=False
        )
        self.scale = LossScale(self.plan.model.precision)
        buffers = {
            n: b for m in self.modules.values() for n, b in m.named_buffers(remove_duplicate=False)
        }
        # Nothing is drawn or read where a checkpoint has it: these get their values by `restore`.
        self.unfilled = set(self._masters()) if restoring else set()
        if not restoring:
            fill(self.plan, mine, {**buffers, **self._masters()}, world.rank)
        if self.plan.compile == "inductor":
            for module in self.modules.values():
                # What follows the batch is marked with each call (batch_dimensions.py); the rest are constants.
                module.compile()
        self.masters.refresh()
        warm(self.plan, mine, self.modules, self.masters, world.device)
        self.shards = Shards(world, self.masters, self.plan.shards)
        named = self._masters()
        self.tied = TiedGradients(self.plan, world, named)
        actions = folder.actions[world.pipeline_rank]
        later = splits_backward(actions)
        tied = {name for one in self.plan.tied for name in one.names}
        alone = {
            index: [p for name, p in module.named_parameters() if name not in tied]
            for index, module in self.modules.items()
        }
        replicas = ReplicaGradients(world.replicas, self.masters, self.shards, alone)
        running = [
            RunningStage(
                self.plan,
                s,
                self.modules[s.index],
                later,
                self.masters,
                partial(replicas.made, stage=s.index),
            )
            for s in mine
        ]
        # Ranks are not ready at the same time, and opening keeps each until the others come.
        world.meeting.come_together("waiting until every rank is ready", start_timeout())
        open_channels(self.plan, world, messages)
        transport = Transport(self.plan, world, messages)
        self.engine = Engine(
            world.rank, actions, running, transport, self.tied, replicas, world.status
        )
        self.evaluated = self.plan.in_evaluation()
        self.evaluates = False
        self.evaluator = self._evaluator(Transport(self.evaluated, world, messages))
        # What the optimizer has, by the name that every plan of the model knows it by.
        self.own_parameters = list({h.names[0]: h for s in mine for h in s.parameters}.values())
        self.own_buffers = [h for s in mine for h in s.buffers]
        self.in_stages = {
            n: p
            for m in self.modules.values()
            for n, p in m.named_parameters(remove_duplicate=False)
        }
        self.held = {
            h.names[0]: self.shards.of[id(named[h.names[0]])] for s in mine for h in s.parameters
        }
        self.kept_buffers = {
            h.names[0]: buffers[h.names[0]]
            for s in mine
            for h in s.buffers
            if h.persistent or h.written
        }
        self.saving = Saving(self)
        own = [
            stage
            for plan in (self.plan, self.evaluated)
            for stage in plan.stages
            if stage.pipeline_rank == world.pipeline_rank
        ]
        self.needed = {name for stage in own for name in stage.batch_inputs}
        self.same_batches = SameBatches(world.meeting, world.status)
        self.placeholder = nn.Parameter(torch.empty(0, device=world.device))
        self.train()
        seed_alike(self.plan.model.seed)

    @on_own_terms
    def step(self, **batch: torch.Tensor) -> torch.Tensor:
        """Forward and backward of a global batch; gradients are added to `.grad`. The loss, on every rank.

        The loss is the mean over microbatches, weighted by their samples, or by the labels that count where the job says
        `reduction: tokens`. Raises RunError.
        """
        check_tensors(batch, f"rank {self.world.rank}", self.plan.constants)
        work = replace(self._split(batch, self.plan.microbatches), scale=self.scale.scale)
        self.same_batches.compare(batch)
        self._refresh()
        # What earlier steps accumulated is summed already, and has no scale.
        every = self.scale.used or self.plan.replicas > 1
        earlier = [(p, p.grad) for p in (self.parameters() if every else self.tied.parameters)]
        for parameter, _ in earlier:
            parameter.grad = None
        with self.same_batches.ended_early():
            loss = self.engine.run(work)
        if self.scale.used:
            self._unscale()
        for parameter, before in earlier:
            if before is not None:
                parameter.grad = before if parameter.grad is None else before.add_(parameter.grad)
        shared = self._shared(loss)
        self.same_batches.check_ends()
        self.world.status.step += 1
        self.world.status.note(State.BETWEEN)
        return shared

    def _evaluator(self, transport: Transport) -> Engine:
        """Runs forward alone, over the boundaries of eval mode."""
        stages = [
            RunningStage(self.evaluated, s, self.modules[s.index], masters=self.masters)
            for s in self.evaluated.stages
            if s.index in self.modules
        ]
        return Engine(
            self.world.rank,
            (),
            stages,
            transport,
            self.tied,
            self.engine.replicas,
            self.world.status,
        )

    def _masters(self) -> dict[str, nn.Parameter]:
        """What takes each parameter's gradient, by all its names."""
        of = self.masters.of
        return {
            n: of[id(p)]
            for m in self.modules.values()
            for n, p in m.named_parameters(remove_duplicate=False)
        }

    def _refresh(self) -> None:
        """Bring what the optimizer changed into the stages.

        Raises RunError where there are no values yet, and for changes that the stages cannot follow.
        """
        if self.unfilled:
            raise RunError(
                f"rank {self.world.rank}: {min(self.unfilled)} has no value yet, since the plan was loaded for restoring; "
                "restore a checkpoint first, or load without restoring=True"
            )
        with naming_errors(f"rank {self.world.rank}"):
            check_unchanged(self.own_parameters, self.in_stages, self.held, self.masters.written())
        self.masters.refresh()
        with naming_errors(f"rank {self.world.rank}, gathering parameters of other replicas"):
            self.shards.gather()

    def _unscale(self) -> None:
        """Divide gradients by the loss scale; where one overflowed there are none."""
        own = list(self.parameters())
        overflowed = self.scale.overflows(own).to(self.world.device)
        if self.world.size > 1:
            with naming_errors(f"rank {self.world.rank}, looking for gradients that overflow"):
                dist.all_reduce(overflowed, op=dist.ReduceOp.MAX)
        self.scale.apply(own, bool(overflowed))

    @on_own_terms
    @torch.no_grad()
    def eval_step(self, **batch: torch.Tensor) -> torch.Tensor:
        """Forward alone, in eval mode, of a batch of any size; the loss as `step` has it, on every rank. Raises RunError.

        Gradients, buffers and random numbers of the training stay as they are.
        """
        self._check_evaluation()
        if not self.plan.evaluation.loss:
            raise RunError(
                f"rank {self.world.rank}: the model gives no loss in eval mode; ask for its outputs with predict"
            )
        check_tensors(batch, f"rank {self.world.rank}", self.plan.constants)
        work = self._any_size(batch)
        self.same_batches.compare(batch, "eval_step")
        loss = self._forward(work)
        if loss is None and self.world.pipeline_rank == self.plan.stages[-1].pipeline_rank:
            # A replica that got no microbatch.
            loss = torch.zeros((), device=self.world.device)
        shared = self._shared(loss)
        self.world.status.note(State.BETWEEN)
        return shared

    @on_own_terms
    @torch.no_grad()
    def predict(self, everywhere: bool = False, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the model gives beside its loss, by its own names, in eval mode, for a batch of any size.

        On the ranks that make them, of their replica's samples; with `everywhere` of all samples on every rank. What the loss
        alone needs, such as labels, may be left out. Raises RunError, also where the model gives nothing else.
        """
        self._check_evaluation()
        outputs = {
            tensor.name: tensor for stage in self.evaluated.stages for tensor in stage.outputs
        }
        if not outputs:
            raise RunError(self._nothing_to_predict())
        check_tensors(batch, f"rank {self.world.rank}", self.plan.constants)
        count = self._samples(batch)
        for tensor in self.plan.inputs:
            if tensor.optional and tensor.name not in batch:
                batch[tensor.name] = torch.zeros(
                    shape_in_batch(tensor, count), dtype=getattr(torch, tensor.dtype)
                )
        work = self._any_size(batch, by_samples=True)
        # Labels may be given to some ranks alone, since no output depends on them.
        needed = {
            tensor.name: batch[tensor.name] for tensor in self.plan.inputs if not tensor.optional
        }
        self.same_batches.compare(needed, "predict")
        parts: list[dict[str, torch.Tensor]] = [{} for _ in work.samples]
        self._forward(replace(work, outputs=parts))
        own = {
            name: torch.cat([part[name] for part in parts], outputs[name].samples_at)
            for name in (parts[0] if parts else {})
        }
        found = gather_outputs(self.evaluated, self.world, own, count) if everywhere else own
        self.world.status.note(State.BETWEEN)
        return Outputs(found, self.plan.evaluation.left_out)

    def _check_evaluation(self) -> None:
        if self.plan.evaluation.refused:
            raise RunError(
                f"rank {self.world.rank}: the plan only trains: {self.plan.evaluation.refused}"
            )

    def _nothing_to_predict(self) -> str:
        left_out = [
            f"'{name}' cannot be handed out: {reason}"
            for name, reason in self.plan.evaluation.left_out.items()
        ]
        return "; ".join(
            ["the model returns nothing but its loss, so there is nothing to predict", *left_out]
        )

    def _samples(self, batch: dict[str, torch.Tensor]) -> int:
        with naming_errors(f"rank {self.world.rank}"):
            return samples_in(self.plan, batch)

    def _any_size(self, batch: dict[str, torch.Tensor], by_samples: bool = False) -> Work:
        share = -(-self._samples(batch) // self.plan.batch.microbatch)
        return self._split(
            batch, -(-share // self.plan.replicas), any_count=True, by_samples=by_samples
        )

    def _forward(self, work: Work) -> torch.Tensor | None:
        """In eval mode, leaving the training as it is."""
        self._refresh()
        training = [module.training for module in self.modules.values()]
        self.eval()
        try:
            self._warm_evaluation()
            with fork_rng(self.world.device):
                return self.evaluator.evaluate(
                    work, forward_only(self.evaluated, self.world.pipeline_rank, len(work.samples))
                )
        finally:
            for module, before in zip(self.modules.values(), training, strict=True):
                module.train(before)

    def _warm_evaluation(self) -> None:
        """Before the first evaluation all ranks compile at once, instead of each when its first tensors come."""
        world, device = self.world, self.world.device
        if self.evaluates or not needs_warming(self.evaluated, device):
            return
        self.evaluates = True
        with world.status.during(State.STARTING):
            own = [stage for stage in self.evaluated.stages if stage.index in self.modules]
            warm(self.evaluated, own, self.modules, self.masters, device, training=False)
            world.meeting.come_together("waiting until every rank can evaluate", start_timeout())

    def _shared(self, loss: torch.Tensor | None) -> torch.Tensor:
        if self.world.size == 1:
            assert loss is not None
            return loss
        shared = loss.float() if loss is not None else torch.zeros((), device=self.world.device)
        with naming_errors(f"rank {self.world.rank}, sharing the loss"):
            if self.world.replica_group is not None:
                dist.all_reduce(shared, group=self.world.replica_group)
            dist.broadcast(shared, src=self.plan.stages[-1].pipeline_rank * self.plan.replicas)
        return shared

    def _split(
        self,
        batch: dict[str, torch.Tensor],
        share: int,
        any_count: bool = False,
        by_samples: bool = False,
    ) -> Work:
        """This replica's microbatches, at most `share`; as many as there are with `any_count`.

        Their parts of the loss are those of their samples, or of the terms that the plan says but for `by_samples`.
        """
        here = f"rank {self.world.rank}"
        with naming_errors(here):
            batch, count = checked_batch(self.plan, batch)
        size, m = self.plan.batch.microbatch, self.plan.microbatches * self.plan.replicas
        if not count or (-(-count // size) != m and not any_count):
            raise RunError(
                f"{here}: a batch of {count} is {-(-count // size)} microbatches of {size}, the schedule has {m}; "
                f"give {self.plan.batch.global_size} samples, or compile for another batch"
            )
        samples = [min(size, count - start) for start in range(0, count, size)]
        dynamic = (self.evaluated if any_count else self.plan).batch.dynamic
        if not dynamic and samples[-1] != size:
            raise self._fixed(count)
        own = slice(self.world.replica * share, (self.world.replica + 1) * share)
        parts: list[dict[str, torch.Tensor]] = [{} for _ in samples[own]]
        for name in self.needed:
            pieces = split(self.plan, name, batch[name], count)[own]
            # An input that every microbatch has whole is moved once.
            moved = {id(piece): piece.to(self.world.device, non_blocking=True) for piece in pieces}
            for part, piece in zip(parts, pieces, strict=True):
                part[name] = moved[id(piece)]
        with naming_errors(here):
            weights = (
                [one / count for one in samples]
                if by_samples
                else self.plan.batch.weights(batch, samples)
            )
        return Work(parts, samples[own], weights[own], self.world.replica * share)

    def _fixed(self, count: int) -> RunError:
        size = self.plan.batch.microbatch
        return RunError(
            f"rank {self.world.rank}: the model fixes its batch size: {count} samples are no multiple of {size}"
        )

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What an optimizer has of this rank's parameters, under their original names, each once.

        Of half-precision ones their float32 masters; with `shard_optimizer: true` the rows that this replica steps.
        """
        seen: set[int] = set()
        for module in self.modules.values():
            for name, parameter in module.named_parameters():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield name, self.shards.of[id(self.masters.of[id(parameter)])]

    def rows(self, parameter: nn.Parameter) -> Rows | None:
        """From which row to which one, exclusive, this replica has a parameter that `parameters` gives; None for all."""
        return self.shards.rows.get(id(parameter))

    def parameters(self) -> Iterator[nn.Parameter]:
        """This rank's parameters, for an optimizer."""
        own = [parameter for _, parameter in self.named_parameters()]
        # Optimizers refuse an empty list, and a stage may hold no parameter, or none that is trained.
        return iter(
            own if any(parameter.requires_grad for parameter in own) else [*own, self.placeholder]
        )

    def named_buffers(self) -> Iterator[tuple[str, torch.Tensor]]:
        """This rank's buffers under their original names."""
        for module in self.modules.values():
            yield from module.named_buffers()

    def state_dict(self) -> dict[str, Any]:
        """This rank's part of the original model's state dict, in the precision it runs in.

        With `shard_optimizer: true` all ranks must ask for it together.
        """
        self._refresh()
        return {
            name: tensor
            for module in self.modules.values()
            for name, tensor in module.state_dict().items()
        }

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take this rank's parameters and buffers from a state dict of the original model, or of this rank. Raises RunError."""
        persistent = [h for h in self.own_buffers if h.persistent]
        targets = {**self.held, **{h.names[0]: self.kept_buffers[h.names[0]] for h in persistent}}
        rows = {name: own for name, p in self.held.items() if (own := self.rows(p)) is not None}
        with naming_errors(f"rank {self.world.rank}"):
            load_values(state, [*self.own_parameters, *persistent], targets, rows)
        self.unfilled.clear()

    def save(
        self,
        folder: str | Path,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: Any = None,
        *,
        step: int = 0,
        data: Any = None,
        keep: int = 3,
        wait: bool = True,
    ) -> Path:
        """Write a checkpoint after so many steps, on every rank at once, and keep the last ones. Returns its folder.

        Parameters, buffers, the optimizer's states and random numbers by FQN, in safetensors; `scheduler` and `data` by their
        state_dict(), of plain values, where they have one. Machines that do not see the same folder each keep the
        files of their own ranks. A crash meanwhile leaves the checkpoint before; later ones are set aside. Without
        `wait` it is written beside the training; the next save, or `finish_saving`, waits for it. Raises
        CheckpointError, also where another run writes into the folder.
        """
        return self.saving.save(Path(folder), optimizer, scheduler, step, data, keep, wait)

    def finish_saving(self) -> None:
        """Wait until the last checkpoint is whole. Raises CheckpointError when it could not be written."""
        self.saving.finish()

    def restore(
        self,
        folder: str | Path,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: Any = None,
        *,
        data: Any = None,
    ) -> int:
        """Go on from the last checkpoint of a folder, of this plan or of another one of the model. Returns its step.

        Every file is compared with its hash. The optimizer must be of the same kind, with the same groups; its
        options, the learning rate too, become those of the checkpoint. `folder` may be one checkpoint itself. All
        ranks must restore together. Raises CheckpointError.
        """
        step = self.saving.restore(Path(folder), optimizer, scheduler, data)
        self.unfilled.clear()
        return step

    def train(self, mode: bool = True) -> "Pipeline":
        """As nn.Module.train."""
        for module in self.modules.values():
            module.train(mode)
        return self

    def eval(self) -> "Pipeline":
        """As nn.Module.eval."""
        return self.train(False)

    def clip_grad_norm_(self, max_norm: float) -> torch.Tensor:
        """Clip by the global norm over all stages, tied parameters counted once. Returns the norm before.

        As torch.nn.utils.clip_grad_norm_: gradients times min(1, max_norm / (norm + 1e-6)).
        """
        square = torch.zeros((), device=self.world.device)
        for name, parameter in self.held.items():
            if parameter.grad is not None and name not in self.tied.owned_elsewhere:
                # What every replica has is counted by each.
                counted = 1 if self.rows(parameter) else self.world.replicas
                square += parameter.grad.detach().float().norm().square() / counted
        if self.world.size > 1:
            with naming_errors(f"rank {self.world.rank}, clipping gradients"):
                dist.all_reduce(square)
        norm = square.sqrt()
        scale = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(scale.to(parameter.grad.dtype))
        return norm
