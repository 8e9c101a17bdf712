"""Tensors over a boundary: receives posted ahead into buffers, sends that never block compute."""

import torch
import torch.distributed as dist

from pipecut.errors import RunError
from pipecut.plan.memory import MOST_LEAVING
from pipecut.plan.schema import Boundary, Plan, Tensor
from pipecut.runtime.ranks.messages import GroupMessages, Messages, Pending
from pipecut.runtime.ranks.world import World

Received = list[torch.Tensor]


class Transport:
    """The boundaries of this rank's stages for one step after another."""

    def __init__(self, plan: Plan, world: World, messages: Messages | None = None) -> None:
        self.world, self.messages = world, messages or GroupMessages()
        self.boundaries = {b.left: b for b in plan.boundaries}
        self.pipeline_rank_of = {s.index: world.rank_at(s.pipeline_rank) for s in plan.stages}
        self.arriving: dict[tuple[str, int, int], tuple[Received, list[Pending]]] = {}
        self.leaving: dict[tuple[str, int, int], list[tuple[Pending, torch.Tensor]]] = {}

    def post(self, kind: str, stage: int, microbatch: int, samples: int) -> None:
        """Post the receives of activations (F) from the stage before, or of gradients (B) from the one after."""
        boundary, source, group = self._side(kind, stage, receiving=True)
        tensors, works = [], []
        for tensor in _carried(boundary, kind):
            sizes, order = tensor.sizes(samples), tensor.order or range(len(tensor.shape))
            in_memory = [sizes[d] for d in order]
            buffer = torch.empty(
                in_memory, dtype=getattr(torch, tensor.dtype), device=self.world.device
            )
            work = self.messages.irecv(buffer, source, group)
            tensors.append(
                buffer.permute(
                    [in_order for _, in_order in sorted(zip(order, range(len(sizes)), strict=True))]
                )
            )
            works.append(work)
        self.arriving[kind, stage, microbatch] = tensors, works

    def awaits(self, kind: str, stage: int, microbatch: int) -> bool:
        """Whether a receive was posted that is not taken yet."""
        return bool(self.arriving.get((kind, stage, microbatch), ([], []))[1])

    def hand_over(self, kind: str, stage: int, microbatch: int, tensors: Received) -> None:
        """Give a stage of this rank what another one of it made."""
        if kind == "B":
            # All is made that is sent; a boundary's gradients are those of the tensors that need one.
            assert len(tensors) == len(_carried(self.boundaries[stage], kind))
        self.arriving[kind, stage, microbatch] = tensors, []

    def take(self, kind: str, stage: int, microbatch: int) -> Received:
        """Wait for what was posted; empty when nothing was."""
        tensors, works = self.arriving.pop((kind, stage, microbatch), ([], []))
        for work in works:
            work.wait()
        if kind == "B":
            # Its gradient is here, so the activation was received.
            self._let_go("F", stage, microbatch)
        return tensors

    def send(
        self, kind: str, stage: int, microbatch: int, samples: int, tensors: list[torch.Tensor]
    ) -> None:
        """Start sending; the tensors are kept until they have left.

        Raises RunError where they are not what the other side has made room for.
        """
        boundary, target, group = self._side(kind, stage, receiving=False)
        _check(kind, stage, _carried(boundary, kind), tensors, samples)
        sent = [key for key in self.leaving if key[:2] == (kind, stage)]
        for key in sent[: max(0, len(sent) - MOST_LEAVING)]:
            self._let_go(*key)
        leaving = self.leaving[kind, stage, microbatch] = []
        for tensor, what in zip(tensors, _carried(boundary, kind), strict=True):
            # The other side gets the same layout in memory: with another one, kernels would round otherwise.
            whole = tensor.detach().permute(what.order or list(range(tensor.dim()))).contiguous()
            work = self.messages.isend(whole, target, group)
            leaving.append((work, whole))

    def _let_go(self, kind: str, stage: int, microbatch: int) -> None:
        """Wait until a message has left. gloo says so of a send only when it is waited for."""
        for work, _ in self.leaving.pop((kind, stage, microbatch), []):
            work.wait()

    def finish(self) -> None:
        """Wait until everything has left."""
        for key in list(self.leaving):
            self._let_go(*key)

    def _side(
        self, kind: str, stage: int, receiving: bool
    ) -> tuple[Boundary, int, dist.ProcessGroup]:
        other = stage + (-1 if (kind == "F") == receiving else 1)
        rank = self.pipeline_rank_of[other]
        channel = (rank, self.world.rank) if receiving else (self.world.rank, rank)
        return self.boundaries[min(stage, other)], rank, self.world.channels[channel]


def _check(
    kind: str, stage: int, wanted: list[Tensor], tensors: list[torch.Tensor], samples: int
) -> None:
    """Neither NCCL nor gloo compare types: the bytes of one would be read as the other."""
    what = "activation" if kind == "F" else "gradient"
    if len(tensors) != len(wanted):
        raise RunError(
            f"stage {stage} made {len(tensors)} {what}s to send, the plan has {len(wanted)}; compile again"
        )
    for tensor, expected in zip(tensors, wanted, strict=True):
        dtype, shape = getattr(torch, expected.dtype), expected.sizes(samples)
        if tensor.dtype != dtype or list(tensor.shape) != shape:
            raise RunError(
                f"stage {stage} made the {what} of {expected.name} as {tensor.dtype}{list(tensor.shape)}, "
                f"the plan sends {dtype}{shape}; run the step without autocast, since the job's `precision` "
                "says what stages compute in, and compile again where the model has changed"
            )


def _carried(boundary: Boundary, kind: str) -> list[Tensor]:
    return [t for t in boundary.tensors if kind == "F" or t.needs_grad]
