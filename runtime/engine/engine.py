"""Interpret a rank's action list for one step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from pipecut.model.precision import as_summed
from pipecut.plan.schema import NEEDS, Action
from pipecut.runtime.engine.ahead import Ahead
from pipecut.runtime.engine.recorder import Recorder
from pipecut.runtime.engine.stage import RunningStage
from pipecut.runtime.engine.transport import Transport
from pipecut.runtime.gradients.replicas import ReplicaGradients
from pipecut.runtime.gradients.tied import TiedGradients
from pipecut.runtime.health.rank_errors import naming_errors
from pipecut.runtime.health.status import State, Status

# What a rank does once its actions are done: it waits for the others.
END = Action("REDUCE", 0, 0)

COMPUTES = ("F", "B", "I", "W")
# What is made and not sent yet, by F or B, stage and microbatch.
Outgoing = dict[tuple[str, int, int], list[torch.Tensor]]


@dataclass(frozen=True)
class Work:
    """A replica's microbatches: their tensors, their samples, and their parts of the loss, which sum to 1 over all replicas.

    `first` is the number of the first of them among all, `scale` what losses are multiplied by for backward;
    `outputs` is filled with what the model gives beside its loss, where it is given.
    """

    microbatches: list[dict[str, torch.Tensor]]
    samples: list[int]
    weights: list[float]
    first: int = 0
    scale: float = 1.0
    grad: bool = True
    outputs: list[dict[str, torch.Tensor]] | None = None


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
        # The last to make gradients of each stage's parameters.
        self.last = set(
            {action.stage: action for action in actions if action.kind in ("B", "W")}.values()
        )

    def run(self, work: Work) -> torch.Tensor | None:
        """Run the actions; this replica's part of the loss where the last stage is, None elsewhere.

        Raises RunError that names rank, action and cause.
        """
        return self._run(self.actions, work)

    def evaluate(self, work: Work, actions: Sequence[Action]) -> torch.Tensor | None:
        """As `run`, for actions of forward alone; buffers stay as they are."""
        before = [
            (buffer, buffer.clone()) for stage in self.stages.values() for buffer in stage.written()
        ]
        found = self._run(actions, replace(work, grad=False))
        for buffer, value in before:
            buffer.copy_(value)
        return found

    def _run(self, actions: Sequence[Action], work: Work) -> torch.Tensor | None:
        losses: list[torch.Tensor] = []
        outgoing: Outgoing = {}
        for stage in self.stages.values():
            stage.begin(self.status.step, work.first)
        for action in actions:
            with naming_errors(f"rank {self.rank}, action '{action}'"):
                self.replicas.ends(action.stage if action in self.last else None)
                self._do(action, work, losses, outgoing)
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
        kind, s, m = action.kind, action.stage, action.microbatch
        if kind.startswith("RECV"):
            self.transport.post(kind[-1], s, m, work.samples[m])
            return
        if kind in COMPUTES:
            self.ahead.before()
        begin = self._mark()
        others = kind not in COMPUTES or self.transport.awaits(NEEDS.get(kind, ""), s, m)
        self.status.note(State.WAITING if others else State.COMPUTING, action)
        if kind in NEEDS:
            received = self.transport.take(NEEDS[kind], s, m)
            taken = self._mark()
            self.status.note(State.COMPUTING, action)
            self._record("WAIT", action, begin, taken)
            begin = taken
        if kind.startswith("SEND"):
            self.transport.send(kind[-1], s, m, work.samples[m], outgoing.pop((kind[-1], s, m)))
        elif kind == "F":
            stage = self.stages[s]
            batch = [work.microbatches[m][name] for name in stage.stage.batch_inputs]
            weight = work.weights[m]
            wanted = work.outputs[m] if work.outputs is not None else None
            outputs = stage.forward(m, received, batch, weight * work.scale, work.grad, wanted)
            if stage.last:
                # In eval mode a model may have no loss.
                losses += [as_summed(output.detach()) * weight for output in outputs]
            elif stage.stage.sends:
                self._pass_on("F", s, m, [output.detach() for output in outputs], outgoing)
        elif kind in ("B", "I"):
            gradients = self.stages[s].backward(m, received)
            if gradients:
                self._pass_on("B", s, m, gradients, outgoing)
        elif kind == "W":
            self.stages[s].weights(m)
        else:
            self.tied.reduce()
            self.replicas.reduce()
        if kind in COMPUTES:
            self.ahead.after()
        self._record(kind.split("_")[0], action, begin, self._mark())

    def _pass_on(
        self,
        kind: str,
        stage: int,
        microbatch: int,
        tensors: list[torch.Tensor],
        outgoing: Outgoing,
    ) -> None:
        """To the other stage where it is on this rank, to be sent where it is not."""
        other = stage + (1 if kind == "F" else -1)
        if other in self.stages:
            self.transport.hand_over(kind, other, microbatch, tensors)
        else:
            outgoing[kind, stage, microbatch] = tensors

    def _mark(self) -> Any:
        return self.recorder.now() if self.recorder is not None else None

    def _record(self, kind: str, action: Action, start: Any, end: Any) -> None:
        if self.recorder is not None:
            self.recorder.add(kind, action.stage, action.microbatch, start, end)
