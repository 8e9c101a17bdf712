"""What `pipecut.load` returns: this rank's stages behind the face of a module, with `step`."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from pipecut.errors import OtherWayError
from pipecut.model.plan_optimizer import PlanOptimizer, plan_optimizer
from pipecut.plan.actions import Action, splits_backward
from pipecut.plan.part.check import check_part
from pipecut.plan.part.read import PlanPart, read_part
from pipecut.plan.rows import Rows
from pipecut.plan.schema import Plan
from pipecut.runtime.batches.flat import flat_batch
from pipecut.runtime.batches.splitter import BatchSplitter
from pipecut.runtime.checkpoint.restoring import RestoreRequest, restore
from pipecut.runtime.checkpoint.saving import SaveRequest, Saving
from pipecut.runtime.engine.engine import Engine
from pipecut.runtime.engine.share_loss import share_loss
from pipecut.runtime.engine.stage import RunningStage
from pipecut.runtime.engine.surroundings import on_own_terms
from pipecut.runtime.engine.transport import Transport
from pipecut.runtime.evaluation import Evaluation
from pipecut.runtime.gradients.clip import clip_grad_norm
from pipecut.runtime.gradients.loss_scale import LossScale
from pipecut.runtime.gradients.replicas import ReplicaGradients
from pipecut.runtime.gradients.tied import TiedGradients
from pipecut.runtime.health.last_words import LastWords
from pipecut.runtime.health.rank_errors import naming_errors
from pipecut.runtime.health.status import State
from pipecut.runtime.health.timeouts import start_timeout
from pipecut.runtime.rank_model import RankModel
from pipecut.runtime.ranks.agree.agreement import agree_to_start
from pipecut.runtime.ranks.agree.meeting import meet
from pipecut.runtime.ranks.agree.same_batches import SameBatches, Shard, seed_alike
from pipecut.runtime.ranks.agree.sampled_batches import SampledBatches
from pipecut.runtime.ranks.agree.value_checks import refuse_other_way
from pipecut.runtime.ranks.channels import open_channels
from pipecut.runtime.ranks.first_values import warn_of_changes
from pipecut.runtime.ranks.messages import Messages
from pipecut.runtime.ranks.rendezvous import order_ranks
from pipecut.runtime.ranks.world import World, join_world


@torch.inference_mode(False)
def load_pipeline(
    path: Path,
    device: str | None,
    messages: Messages | None = None,
    restoring: bool = False,
    alike: Mapping[str, str] | None = None,
    code: Path | None = None,
) -> "Pipeline":
    """Read and check the plan, agree on it with the other ranks, and build this rank's stages.

    `messages` carries tensors between ranks (default: torch.distributed). With `restoring`
    parameters get no values. `alike` has what else must be alike on all ranks, `code` is
    where the model's code is now.
    """
    order_ranks(timedelta(seconds=start_timeout()))
    meeting = meet()
    if meeting.size > 1:
        LastWords(meeting.rank).listen()
    try:
        part = read_part(path, meeting.rank, code)
        check_part(part)
        agree_to_start(meeting, part.plan, device, restoring, alike or {})
        world = join_world(part.plan, device, meeting)
        if world.rank == 0:
            warn_of_changes(part.plan)
        return Pipeline(part, world, messages, restoring)
    except BaseException:
        meeting.fail()
        raise


class Pipeline:
    """This rank's part of a pipelined model."""

    def __init__(
        self,
        part: PlanPart,
        world: World,
        messages: Messages | None = None,
        restoring: bool = False,
    ) -> None:
        self.plan: Plan = part.plan
        self.world = world
        self.model = RankModel(part, world, restoring)
        self.scale = LossScale(self.plan.model.precision)
        # Ranks are not ready at the same time, and opening keeps each until the others come.
        world.meeting.come_together("waiting until every rank is ready", start_timeout())
        open_channels(self.plan, world, messages)
        self.tied = TiedGradients(world, self.model.parameters)
        self.replicas = ReplicaGradients(
            self.plan.replicas, self.model.parameters, self.model.shards
        )
        self.engine = self._training_engine(part.actions, messages)
        self.splitter = BatchSplitter(self.plan, world)
        samples = SampledBatches(world.device)
        self.same_batches = SameBatches(world.meeting, world.status, samples)
        self.evaluation = Evaluation(
            self.plan, self.model, self._evaluation_engine(messages), self.same_batches
        )
        self.saving = Saving(self.model, self.scale)
        # Optimizers refuse an empty list, and a stage may hold no parameter, or none that is
        # trained.
        self.placeholder = nn.Parameter(torch.empty(0, device=world.device))
        self.train()
        seed_alike(self.plan.model.seed)

    def _training_engine(self, actions: tuple[Action, ...], messages: Messages | None) -> Engine:
        model, world = self.model, self.world
        stages = [
            RunningStage(
                self.plan,
                stage,
                model.modules[stage.index],
                model.masters,
                splits_backward(actions),
                self.replicas.gradient_ready,
            )
            for stage in model.stages
        ]
        transport = Transport(self.plan, world, messages)
        return Engine(
            world.rank, actions, stages, transport, self.tied, self.replicas, world.status
        )

    def _evaluation_engine(self, messages: Messages | None) -> Engine:
        """Runs only forward, over the boundaries of eval mode."""
        model, world, evaluated = self.model, self.world, self.plan.in_evaluation()
        stages = [
            RunningStage(evaluated, stage, model.modules[stage.index], model.masters)
            for stage in evaluated.stages
            if stage.index in model.modules
        ]
        transport = Transport(evaluated, world, messages)
        return Engine(world.rank, (), stages, transport, self.tied, self.replicas, world.status)

    @on_own_terms
    def step(self, **batch: Any) -> torch.Tensor:
        """Forward and backward of a global batch. Returns the loss, on every rank.

        Each input is a tensor that is split into microbatches, or a list of a tensor for each
        microbatch: where the plan has `lengths`, each may have a length of its own. Nested inputs
        are given as the inputs function nests them, or by name: `**{"batch.pixels.0": ...}`.

        Gradients are added to `.grad`. The loss is the mean over microbatches, weighted by their
        samples, or by their counted labels where the job says `reduction: tokens`. Raises
        RunError; OtherWayError on every rank, without any gradients, where the batch makes the
        model choose otherwise than the plan does.
        """
        flat = flat_batch(self.plan, batch, f"rank {self.world.rank}")
        work = self.splitter.for_step(flat, self.scale.scale)
        self.same_batches.compare(flat)
        self.model.refresh()
        earlier = self._take_earlier_gradients()
        with self.same_batches.ended_early():
            loss = self.engine.run(work)
        self._refuse_other_way()
        if self.scale.used:
            self._unscale()
        for parameter, gradient in earlier:
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad = gradient.add_(parameter.grad)
        shared = share_loss(self.plan, self.world, loss)
        self.same_batches.check_ends()
        self.world.status.step += 1
        self.world.status.note(State.BETWEEN)
        return shared

    def _refuse_other_way(self) -> None:
        """Drops the gradients, and raises OtherWayError, where the plan is not for the batch."""
        try:
            subject = f"step {self.world.status.step}"
            refuse_other_way(self.plan, self.world, self.engine.checks, subject)
        except OtherWayError:
            for parameter in self.parameters():
                parameter.grad = None
            raise

    def read_shards(self, sharded: bool = True) -> Shard:
        """From now on `step` takes this replica's own part of the global batch, not all of it.

        Returns which part: its `rank` among `count`, as a DistributedSampler takes them. All ranks
        of a replica must give the same samples, as many as the global batch divided by `count`.
        """
        shard = Shard(self.world.replica, self.plan.replicas)
        self.splitter.sharded = sharded
        self.same_batches.shard = shard if sharded else None
        return shard

    def _take_earlier_gradients(self) -> list[tuple[nn.Parameter, torch.Tensor]]:
        """Take away the gradients of earlier steps, which are summed and unscaled already."""
        takes_all = self.scale.used or self.plan.replicas > 1
        summed_in_step = (
            self.parameters() if takes_all else [p.master for p in self.tied.parameters]
        )
        earlier = [(p, p.grad) for p in summed_in_step if p.grad is not None]
        for parameter, _ in earlier:
            parameter.grad = None
        return earlier

    def _unscale(self) -> None:
        """Divide gradients by the loss scale; drop them all where one overflowed on any rank."""
        parameters = list(self.parameters())
        overflowed = self.scale.overflows(parameters).to(self.world.device)
        if self.world.size > 1:
            with naming_errors(f"rank {self.world.rank}, looking for gradients that overflow"):
                dist.all_reduce(overflowed, op=dist.ReduceOp.MAX)
        self.scale.apply(parameters, bool(overflowed))

    @on_own_terms
    @torch.no_grad()
    def eval_step(self, **batch: Any) -> torch.Tensor:
        """Only forward, in eval mode, of a batch of any size. Returns the loss as `step` does.

        Gradients, buffers and random numbers of the training stay as they are. Raises RunError.
        """
        return self.evaluation.loss(batch)

    @on_own_terms
    @torch.no_grad()
    def predict(
        self,
        batches: Iterable[Mapping[str, Any]] | None = None,
        /,
        *,
        everywhere: bool = False,
        **batch: Any,
    ) -> dict[str, torch.Tensor]:
        """The model's outputs beside its loss, in eval mode, for a batch of any size, by name.

        Or of many `batches`, one after the other: then on the CPU, their samples concatenated. On
        the ranks that make them, of their replica's samples; with `everywhere` of all samples on
        every rank. What only the loss needs, such as labels, may be left out. Raises RunError, also
        where the model returns nothing else.
        """
        if batches is None:
            return self.evaluation.predict(batch, everywhere)
        return self.evaluation.predict_all(batches, everywhere)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What an optimizer has of this rank's parameters, under their original names, each once.

        Of half-precision ones their float32 masters; with `shard_optimizer: true` the rows that
        this replica steps.
        """
        return self.model.named_parameters()

    def rows(self, parameter: nn.Parameter) -> Rows | None:
        """The rows, from the first to the one after the last, that this replica has of a parameter.

        `parameter` is one that `parameters` returns; None for all rows.
        """
        return next((p.rows for p in self.model.parameters if p.stepped is parameter), None)

    def parameters(self) -> Iterator[nn.Parameter]:
        """This rank's parameters, for an optimizer."""
        parameters = [parameter for _, parameter in self.named_parameters()]
        trained = any(parameter.requires_grad for parameter in parameters)
        return iter(parameters if trained else [*parameters, self.placeholder])

    def optimizer(self, rate: float | None = None, clip: float | None = None) -> PlanOptimizer:
        """The job's optimizer over this rank's parameters.

        Its `step()` clips gradients, steps, drops them and moves the learning rate as the job's
        `clip` and `lr_schedule` say. `rate` and `clip` replace the job's. Raises PlanError.
        """
        return plan_optimizer(
            self.plan.optimizer,
            self.trained_parameters(),
            self.clip_grad_norm_,
            self.plan.clip if clip is None else clip,
            self.plan.lr_schedule,
            rate,
        )

    def trained_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Those of `named_parameters` that are trained, or a placeholder without a name."""
        trained = [(n, p) for n, p in self.named_parameters() if p.requires_grad]
        return trained or [("", self.placeholder)]

    def named_buffers(self) -> Iterator[tuple[str, torch.Tensor]]:
        """This rank's buffers under their original names."""
        for module in self.model.modules.values():
            yield from module.named_buffers()

    def state_dict(self) -> dict[str, Any]:
        """This rank's part of the original model's state dict, in the precision it runs in.

        With `shard_optimizer: true` all ranks must call it together.
        """
        self.model.refresh()
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take parameters and buffers from a state dict of the original model, or of this rank.

        Raises RunError.
        """
        self.model.load_state_dict(state)

    def save(
        self,
        folder: str | Path,
        optimizer: torch.optim.Optimizer | PlanOptimizer | None = None,
        scheduler: Any = None,
        *,
        step: int = 0,
        data: Any = None,
        keep: int = 3,
        wait: bool = True,
        trained_only: bool = False,
    ) -> Path:
        """Write a checkpoint after so many steps, on every rank at once. Returns its folder.

        It has parameters, buffers, the optimizer's states and random numbers by FQN, in
        safetensors; `scheduler` and `data` by their state_dict(), of plain values, where they have
        one. The last `keep` checkpoints are kept. Machines that do not see the same folder each
        keep the files of their own ranks. A crash meanwhile leaves the checkpoint before; later
        ones are set aside. Without `wait` it is written beside the training; the next save, or
        `finish_saving`, waits for it. With `trained_only` frozen parameters are left out: going on
        takes them from the plan's weights or seed again, and compares them. Raises CheckpointError,
        also where another run writes into the folder.
        """
        if isinstance(optimizer, PlanOptimizer):
            scheduler, optimizer = optimizer.scheduler, optimizer.optimizer
        return self.saving.save(
            SaveRequest(Path(folder), step, optimizer, scheduler, data, keep, wait, trained_only)
        )

    def finish_saving(self) -> None:
        """Wait until the last checkpoint is whole. Raises CheckpointError where it is not."""
        self.saving.finish()

    def restore(
        self,
        folder: str | Path,
        optimizer: torch.optim.Optimizer | PlanOptimizer | None = None,
        scheduler: Any = None,
        *,
        data: Any = None,
    ) -> int:
        """Go on from the last checkpoint of a folder. Returns its step.

        It may be of this plan or another one of the model. Every file is compared with its hash.
        The optimizer must be of the same kind, with the same groups; its options, the learning
        rate too, become those of the checkpoint. `folder` may be one checkpoint itself. All ranks
        must restore together. Raises CheckpointError.
        """
        recipe = self.saving.recipe
        steps = optimizer.optimizer if isinstance(optimizer, PlanOptimizer) else optimizer
        request = RestoreRequest(Path(folder), steps, scheduler, data, recipe)
        manifest = restore(self.model, self.scale, request)
        if isinstance(optimizer, PlanOptimizer):
            optimizer.go_on(manifest.scheduled_steps)
        if "clip" in manifest.training.recipe:
            recipe.setdefault("clip", manifest.training.recipe["clip"])
        self.model.values_missing = False
        return manifest.step

    def train(self, mode: bool = True) -> "Pipeline":
        """As nn.Module.train."""
        self.model.train(mode)
        return self

    def eval(self) -> "Pipeline":
        """As nn.Module.eval."""
        return self.train(False)

    def clip_grad_norm_(self, max_norm: float) -> torch.Tensor:
        """Clip gradients by their global norm over all stages. Returns the norm before.

        As torch.nn.utils.clip_grad_norm_; tied parameters count once.
        """
        return clip_grad_norm(self.world, self.model.parameters, max_norm)
