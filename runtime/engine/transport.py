"""Tensors over a boundary: receives posted ahead into buffers, sends that never block compute."""

import torch

from pipecut.errors import RunError
from pipecut.plan.actions import Message
from pipecut.plan.channels import Channel
from pipecut.plan.replay.memory import MOST_LEAVING
from pipecut.plan.schema import Plan, Tensor
from pipecut.runtime.ranks.messages import GroupMessages, Messages, Pending
from pipecut.runtime.ranks.world import World

Received = list[torch.Tensor]


class Transport:
    """The boundaries of this rank's stages for one step after another."""

    def __init__(self, plan: Plan, world: World, messages: Messages | None = None) -> None:
        self.world, self.messages = world, messages or GroupMessages()
        self.boundaries = {b.left: b for b in plan.boundaries}
        self.arriving: dict[Message, tuple[Received, list[Pending]]] = {}
        self.leaving: dict[Message, list[tuple[Pending, torch.Tensor]]] = {}

    def post(self, message: Message, samples: int) -> None:
        """Post the receives of a message's tensors, of a microbatch of so many samples."""
        source = self.world.rank_of(message.sender)
        group = self.world.channels[Channel(source, self.world.rank)]
        tensors, works = [], []
        for tensor in self._carried(message):
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
        self.arriving[message] = tensors, works

    def awaits(self, message: Message) -> bool:
        """Whether a receive was posted that is not taken yet."""
        return bool(self.arriving.get(message, ([], []))[1])

    def hand_over(self, message: Message, tensors: Received) -> None:
        """Pass what a stage of this rank made to another stage of this rank."""
        if message.direction == "B":
            # All is made that is sent; a boundary's gradients are those of the tensors that need one.
            assert len(tensors) == len(self._carried(message))
        self.arriving[message] = tensors, []

    def take(self, message: Message) -> Received:
        """Wait for what was posted; empty when nothing was."""
        tensors, works = self.arriving.pop(message, ([], []))
        for work in works:
            work.wait()
        if message.direction == "B":
            # The gradient has arrived, so the activation was received.
            self._let_go(message.answer)
        return tensors

    def send(self, message: Message, samples: int, tensors: list[torch.Tensor]) -> None:
        """Start sending; the tensors are kept until they have left.

        Raises RunError where they are not what the receiver has buffers for.
        """
        target = self.world.rank_of(message.receiver)
        group = self.world.channels[Channel(self.world.rank, target)]
        carried = self._carried(message)
        _check(message, carried, tensors, samples)
        earlier = [other for other in self.leaving if other.hop == message.hop]
        for other in earlier[: max(0, len(earlier) - MOST_LEAVING)]:
            self._let_go(other)
        leaving = self.leaving[message] = []
        for tensor, what in zip(tensors, carried, strict=True):
            # The other side gets the same layout in memory: with another one, kernels would round otherwise.
            whole = tensor.detach().permute(what.order or list(range(tensor.dim()))).contiguous()
            work = self.messages.isend(whole, target, group)
            leaving.append((work, whole))

    def _let_go(self, message: Message) -> None:
        """Wait until a message has left. gloo says so of a send only when it is waited for."""
        for work, _ in self.leaving.pop(message, []):
            work.wait()

    def finish(self) -> None:
        """Wait until everything has left."""
        for message in list(self.leaving):
            self._let_go(message)

    def _carried(self, message: Message) -> list[Tensor]:
        """The tensors of a message: of gradients, those of the tensors that need one."""
        tensors = self.boundaries[message.hop.boundary].tensors
        return [t for t in tensors if message.direction == "F" or t.needs_grad]


def _check(
    message: Message, wanted: list[Tensor], tensors: list[torch.Tensor], samples: int
) -> None:
    """Neither NCCL nor gloo compare types: the bytes of one would be read as the other."""
    what, stage = "activation" if message.direction == "F" else "gradient", message.sender
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
