"""Interpret a rank's action list for one step."""

from typing import Any

import torch

from pipecut.runtime.peers import told
from pipecut.runtime.plan import Action
from pipecut.runtime.recorder import Recorder
from pipecut.runtime.replicas import ReplicaGradients
from pipecut.runtime.stage import RunningStage
from pipecut.runtime.status import State, Status
from pipecut.runtime.tied import TiedGradients
from pipecut.runtime.transport import Transport

# What a rank does once its actions are done: it waits for the others.
END = Action("REDUCE", 0, 0)


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
        self.stages = {stage.stage.index: stage for stage in stages}
        self.recorder: Recorder | None = None

    def run(self, microbatches: list[dict[str, torch.Tensor]], samples: list[int], total: int) -> torch.Tensor | None:
        """Run the actions; this replica's part of the loss where the last stage is, None elsewhere.

        `total` counts the samples of all replicas. Raises RunError that names rank, action and cause.
        """
        losses: list[torch.Tensor] = []
        outgoing: dict[tuple[str, int, int], list[torch.Tensor]] = {}
        self.replicas.begin()
        self.tied.begin()
        for action in self.actions:
            with told(f"rank {self.rank}, action '{action}'"):
                self._do(action, microbatches, samples, total, losses, outgoing)
        self.status.note(State.WAITING, END)
        with told(f"rank {self.rank}, waiting for the last sends"):
            self.transport.finish()
        return torch.stack(losses).sum() if losses else None

    def _do(
        self,
        action: Action,
        microbatches: list[dict[str, torch.Tensor]],
        samples: list[int],
        total: int,
        losses: list[torch.Tensor],
        outgoing: dict[tuple[str, int, int], list[torch.Tensor]],
    ) -> None:
        kind, s, m = action.kind, action.stage, action.microbatch
        if kind.startswith("RECV"):
            self.transport.post(kind[-1], s, m, samples[m])
            return
        begin = self._mark()
        computes = kind in ("F", "B")
        self.status.note(State.COMPUTING if computes and not self.transport.awaits(kind, s, m) else State.WAITING, action)
        if computes:
            received = self.transport.take(kind, s, m)
            taken = self._mark()
            self.status.note(State.COMPUTING, action)
            self._record("WAIT", action, begin, taken)
            begin = taken
        if kind.startswith("SEND"):
            self.transport.send(kind[-1], s, m, outgoing.pop((kind[-1], s, m)))
        elif kind == "F":
            stage = self.stages[s]
            batch = [microbatches[m][name] for name in stage.stage.batch_inputs]
            weight = samples[m] / total
            outputs = stage.forward(m, received, batch, weight, grad=True)
            if stage.last:
                losses.append(outputs[0].detach() * weight)
            elif stage.stage.sends:
                outgoing["F", s, m] = outputs
        elif kind == "B":
            gradients = self.stages[s].backward(m, received)
            if gradients:
                outgoing["B", s, m] = gradients
        else:
            self.tied.reduce()
            self.replicas.reduce()
        self._record(kind.split("_")[0], action, begin, self._mark())

    def _mark(self) -> Any:
        return self.recorder.now() if self.recorder is not None else None

    def _record(self, kind: str, action: Action, start: Any, end: Any) -> None:
        if self.recorder is not None:
            self.recorder.add(kind, action.stage, action.microbatch, start, end)
