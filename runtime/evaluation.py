"""Only forward, in eval mode: the loss and other outputs, leaving the training as it is."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from pipecut.device.work import fork_rng
from pipecut.errors import RunError
from pipecut.model.batch.nesting import members_of
from pipecut.model.outputs import Outputs
from pipecut.plan.forward_only import forward_only
from pipecut.plan.schema import Plan, Sizes, Tensor
from pipecut.runtime.batches.flat import flat_batch
from pipecut.runtime.batches.microbatches import shape_in_batch, sizes_in
from pipecut.runtime.batches.splitter import BatchSplitter, Given, Tensors
from pipecut.runtime.engine.engine import Engine, Work
from pipecut.runtime.engine.gather_outputs import gather_outputs
from pipecut.runtime.engine.share_loss import share_loss
from pipecut.runtime.engine.warm import needs_warming, warm
from pipecut.runtime.health.rank_errors import naming_errors
from pipecut.runtime.health.status import State
from pipecut.runtime.health.timeouts import start_timeout
from pipecut.runtime.rank_model import RankModel
from pipecut.runtime.ranks.agree.same_batches import SameBatches
from pipecut.runtime.ranks.agree.value_checks import refuse_other_way
from pipecut.runtime.ranks.world import World


class Evaluation:
    """This rank's part of evaluations, beside its training.

    `plan` is the training's plan; `evaluated` has the boundaries of eval mode, over which `engine`
    runs.
    """

    def __init__(
        self, plan: Plan, model: RankModel, engine: Engine, same_batches: SameBatches
    ) -> None:
        self.plan, self.evaluated = plan, plan.in_evaluation()
        self.model, self.engine, self.same_batches = model, engine, same_batches
        self.world: World = model.world
        self.splitter = BatchSplitter(self.evaluated, self.world)
        self.warmed = False

    def loss(self, batch: Given) -> torch.Tensor:
        """The loss of a batch, on every rank. Raises RunError where eval mode has none."""
        world = self.world
        self._check_possible()
        if not self.plan.evaluation.loss:
            raise RunError(
                f"rank {world.rank}: the model returns no loss in eval mode; "
                "ask for its outputs with predict"
            )
        batch = flat_batch(self.plan, batch, f"rank {world.rank}")
        work = self.splitter.for_evaluation(batch)
        self.same_batches.compare(batch, "eval_step")
        loss = self._run(work)
        refuse_other_way(self.evaluated, world, self.engine.checks, "an evaluated batch")
        if loss is None and world.pipeline_rank == self.plan.stages[-1].pipeline_rank:
            # A replica that got no microbatch.
            loss = torch.zeros((), device=world.device)
        shared = share_loss(self.plan, world, loss)
        world.status.note(State.BETWEEN)
        return shared

    def predict(self, batch: Given, everywhere: bool) -> Outputs:
        """The model's outputs beside its loss, for a batch: see Pipeline.predict."""
        world = self.world
        self._check_possible()
        outputs = {tensor.name: tensor for s in self.evaluated.stages for tensor in s.outputs}
        if not outputs:
            raise RunError(self.plan.evaluation.nothing_to_predict())
        batch = flat_batch(self.plan, batch, f"rank {world.rank}")
        self._refuse_lists(batch)
        with naming_errors(f"rank {world.rank}"):
            sizes = sizes_in(self.evaluated, batch)
        work = self.splitter.for_evaluation(self._completed(batch, sizes), by_samples=True)
        # Only some ranks may have labels, since no output depends on them.
        required = {t.name: batch[t.name] for t in self.plan.inputs if not t.optional}
        self.same_batches.compare(required, "predict")
        parts: list[Tensors] = [{} for _ in work.samples]
        self._run(replace(work, outputs=parts))
        missing = {tensor.name for tensor in self.plan.inputs} - batch.keys()
        subject = "a batch to predict"
        refuse_other_way(self.evaluated, world, self.engine.checks, subject, missing)
        tensors = _joined(parts, outputs)
        if everywhere:
            tensors = gather_outputs(self.evaluated, world, tensors, sizes)
        world.status.note(State.BETWEEN)
        return Outputs(tensors, self.plan.evaluation.left_out)

    def predict_all(self, batches: Iterable[Mapping[str, Any]], everywhere: bool) -> Outputs:
        """As `predict`, of batch after batch, concatenated on the CPU. Raises RunError."""
        parts: list[Tensors] = [
            {name: t.cpu() for name, t in self.predict(members_of(batch), everywhere).items()}
            for batch in batches
        ]
        if not parts:
            raise RunError(f"rank {self.world.rank}: there is no batch to predict")
        outputs = {tensor.name: tensor for s in self.evaluated.stages for tensor in s.outputs}
        with naming_errors(f"rank {self.world.rank}, concatenating outputs of batches"):
            return Outputs(_joined(parts, outputs), self.plan.evaluation.left_out)

    def _completed(self, batch: Tensors, sizes: Sizes) -> Tensors:
        """The batch with zeros for missing inputs, such as labels, that only the loss needs.

        What a container has beside such inputs, where it is missing as a whole, is the plan's.
        """
        missing = [t for t in self.evaluated.inputs if t.optional and t.name not in batch]
        zeros = {
            tensor.name: torch.zeros(
                shape_in_batch(tensor, sizes), dtype=getattr(torch, tensor.dtype)
            )
            for tensor in missing
        }
        given = {name.partition(".")[0] for name in batch}
        of_loss = {tensor.name.partition(".")[0] for tensor in missing} & self.plan.nesting.keys()
        constants: dict[str, Any] = {
            name: value
            for name, value in self.plan.constants.items()
            if name.partition(".")[0] in of_loss - given
        }
        return {**batch, **zeros, **constants}

    def _check_possible(self) -> None:
        if self.plan.evaluation.refused:
            raise RunError(
                f"rank {self.world.rank}: the plan only trains: {self.plan.evaluation.refused}"
            )

    def _refuse_lists(self, batch: Given) -> None:
        """Microbatches of lists may be reordered and differ in length, and outputs may not."""
        listed = [
            name
            for name, value in batch.items()
            if isinstance(value, list | tuple) and name not in self.plan.constants
        ]
        if listed:
            raise RunError(
                f"rank {self.world.rank}: {', '.join(listed)} of a batch to predict is a list; "
                "outputs keep the order of samples, so give each input as one tensor, and samples "
                "of each length as a batch of their own"
            )

    def _run(self, work: Work) -> torch.Tensor | None:
        """Forward of this rank's stages; its part of the loss where it has the last stage."""
        world = self.world
        self.model.refresh()
        with self._in_eval_mode():
            self._warm()
            with fork_rng(world.device):
                actions = forward_only(self.evaluated, world.pipeline_rank, len(work.samples))
                return self.engine.evaluate(work, actions)

    @contextmanager
    def _in_eval_mode(self) -> Iterator[None]:
        modules = self.model.modules.values()
        training = [module.training for module in modules]
        self.model.train(False)
        try:
            yield
        finally:
            for module, mode in zip(modules, training, strict=True):
                module.train(mode)

    def _warm(self) -> None:
        """Before the first evaluation, compile on all ranks at once, not one after the other."""
        world, model = self.world, self.model
        if self.warmed or not needs_warming(self.evaluated, world.device):
            return
        self.warmed = True
        with world.status.during(State.STARTING):
            stages = [stage for stage in self.evaluated.stages if stage.index in model.modules]
            warm(self.evaluated, stages, model.modules, model.masters, world.device, training=False)
            world.meeting.come_together("waiting until every rank can evaluate", start_timeout())


def _joined(parts: list[Tensors], outputs: dict[str, Tensor]) -> Tensors:
    """Outputs of all parts; none where another rank makes them, or a replica got no sample."""
    made = [part for part in parts if part]
    return {
        name: torch.cat([part[name] for part in made], outputs[name].samples_at)
        for name in (made[0] if made else {})
    }
