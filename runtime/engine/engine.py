"""Interpret a rank's action list for one step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from pipecut.model.precision import as_summed
from pipecut.plan.actions import Action, Compute, Message, Recv, Reduce, Send, stage_of
from pipecut.runtime.engine.ahead import Ahead
from pipecut.runtime.engine.recorder import Recorder
from pipecut.runtime.engine.stage import RunningStage
from pipecut.runtime.engine.transport import Transport
from pipecut.runtime.gradients.replicas import ReplicaGradients
from pipecut.runtime.gradients.tied import TiedGradients
from pipecut.runtime.health.rank_errors import naming_errors
from pipecut.runtime.health.status import State, Status
from pipecut.runtime.ranks.agree.value_checks import StageChecks, telling_other_way

# What a rank does once its actions are done: it waits for the others.
END = Reduce()

# What is made and not sent yet.
Outgoing = dict[Message, list[torch.Tensor]]


@dataclass(frozen=True)
class Work:
    """A replica's microbatches: their tensors, sizes (`batch` and lengths) and weights in the loss.

    The weights sum to 1 over all replicas. `first` is the number of the first microbatch among
    those of all replicas, `scale` what losses are multiplied by for backward. Where `outputs` has a
    dictionary per microbatch, they are filled with what the model returns beside its loss.
    """

    microbatches: list[dict[str, torch.Tensor]]
    sizes: list[dict[str, int]]
    weights: list[float]
    first: int = 0
    scale: float = 1.0
    grad: bool = True
    outputs: list[dict[str, torch.Tensor]] | None = None

    @property
    def samples(self) -> list[int]:
        """Samples of each microbatch."""
        return [sizes["batch"] for sizes in self.sizes]


class Engine:
    """One rank's stages, its actions, and how tensors come and go."""

    def __init__(
        self,
        rank: int,
        actions: tuple[Action, ...],
        stages: list[RunningStage],
        transport: Transport,
        tied: TiedGradients,
        replicas: ReplicaGradients,
        status: Status,
    ) -> None:
        self.rank, self.actions, self.transport, self.status = rank, actions, transport, status
        self.tied, self.replicas = tied, replicas
        self.ahead = Ahead.of(transport.world.device)
        self.stages = {stage.stage.index: stage for stage in stages}
        self.recorder: Recorder | None = None
        # The last action that adds to the gradients of each stage's parameters.
        adding = [a for a in actions if isinstance(a, Compute) and a.op in ("B", "W")]
        self.last = set({action.stage: action for action in adding}.values())

    def run(self, work: Work) -> torch.Tensor | None:
        """Run the actions; this replica's part of the loss where the last stage is, None elsewhere.

        Raises RunError that names rank, action and cause.
        """
        return self._run(self.actions, work)

    def evaluate(self, work: Work, actions: Sequence[Action]) -> torch.Tensor | None:
        """As `run`, for actions of which none is a backward; buffers stay as they are."""
        before = [
            (buffer, buffer.clone()) for stage in self.stages.values() for buffer in stage.written()
        ]
        loss = self._run(actions, replace(work, grad=False))
        for buffer, value in before:
            buffer.copy_(value)
        return loss

    @property
    def checks(self) -> list[StageChecks]:
        """How the last batch went through this rank's stages."""
        return [stage.checks for stage in self.stages.values()]

    def _run(self, actions: Sequence[Action], work: Work) -> torch.Tensor | None:
        losses: list[torch.Tensor] = []
        outgoing: Outgoing = {}
        for stage in self.stages.values():
            stage.begin(self.status.step, work.first, work.sizes)
        with telling_other_way(self.rank, self.checks):
            for action in actions:
                with naming_errors(f"rank {self.rank}, action '{action}'"):
                    last = stage_of(action) if action in self.last else None
                    self.replicas.last_backward_of(last)
                    self._do(action, work, losses, outgoing)
            for stage in self.stages.values():
                stage.end()
            self.status.note(State.WAITING, END)
            with naming_errors(f"rank {self.rank}, waiting for the last sends"):
                self.transport.finish()
        return torch.stack(losses).sum() if losses else None

    def _do(
        self,
        action: Action,
        work: Work,
        losses: list[torch.Tensor],
        outgoing: Outgoing,
    ) -> None:
        match action:
            case Recv(message):
                self.transport.post(message, work.sizes[message.microbatch])
            case Send(message):
                begin = self._mark()
                self.status.note(State.WAITING, action)
                tensors = outgoing.pop(message)
                self.transport.send(message, work.sizes[message.microbatch], tensors)
                self._record(action, begin)
            case Compute():
                self.ahead.before()
                self._compute(action, work, losses, outgoing)
                self.ahead.after()
            case Reduce():
                begin = self._mark()
                self.status.note(State.WAITING, action)
                self.tied.reduce()
                self.replicas.reduce()
                self._record(action, begin)

    def _compute(
        self, action: Compute, work: Work, losses: list[torch.Tensor], outgoing: Outgoing
    ) -> None:
        received = self._received(action)
        begin = self._mark()
        stage, results = self.stages[action.stage], []
        match action.op:
            case "F":
                results = self._forward(action, received, work, losses)
            case "B" | "I":
                results = stage.backward(action.microbatch, received)
            case "W":
                stage.weights(action.microbatch)
        if results and action.makes is not None:
            self._pass_on(action.makes, results, outgoing)
        self._record(action, begin)

    def _received(self, action: Compute) -> list[torch.Tensor]:
        """Wait for what a compute needs of a neighbouring stage; empty where it needs nothing."""
        message = action.needs
        if message is None:
            self.status.note(State.COMPUTING, action)
            return []
        begin = self._mark()
        awaits = self.transport.awaits(message)
        self.status.note(State.WAITING if awaits else State.COMPUTING, action)
        received = self.transport.take(message)
        self.status.note(State.COMPUTING, action)
        self._record(action, begin, waited=True)
        return received

    def _forward(
        self,
        action: Compute,
        received: list[torch.Tensor],
        work: Work,
        losses: list[torch.Tensor],
    ) -> list[torch.Tensor]:
        """Run a stage's forward; what the next stage needs, where there is one."""
        stage, m = self.stages[action.stage], action.microbatch
        batch = [work.microbatches[m][name] for name in stage.stage.batch_inputs]
        weight = work.weights[m]
        wanted = work.outputs[m] if work.outputs is not None else None
        results = stage.forward(m, received, batch, weight * work.scale, work.grad, wanted)
        if stage.last:
            # In eval mode a model may have no loss.
            losses += [as_summed(result.detach()) * weight for result in results]
            return []
        return [result.detach() for result in results] if stage.stage.sends else []

    def _pass_on(self, message: Message, tensors: list[torch.Tensor], outgoing: Outgoing) -> None:
        """Hand tensors to the receiver where it is on this rank; else keep them to be sent."""
        if message.receiver in self.stages:
            self.transport.hand_over(message, tensors)
        else:
            outgoing[message] = tensors

    def _mark(self) -> Any:
        return self.recorder.now() if self.recorder is not None else None

    def _record(self, action: Action, begin: Any, waited: bool = False) -> None:
        if self.recorder is not None:
            self.recorder.add(action, waited, begin, self.recorder.now())
