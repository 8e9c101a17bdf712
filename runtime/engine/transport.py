"""Tensors over a boundary: receives posted ahead into buffers, sends that never block compute."""

from dataclasses import dataclass

import torch

from pipecut.errors import RunError
from pipecut.plan.actions import Message
from pipecut.plan.channels import Channel
from pipecut.plan.replay.memory import MOST_LEAVING
from pipecut.plan.schema import Plan, Sizes, Tensor
from pipecut.runtime.ranks.messages import GroupMessages, Messages, Pending
from pipecut.runtime.ranks.world import World


@dataclass(frozen=True)
class _Arrival:
    """The tensors of a message, and their receives; none where a stage of this rank made them."""

    tensors: list[torch.Tensor]
    pending: list[Pending]


@dataclass(frozen=True)
class _Departure:
    """A tensor that is kept until it has left."""

    pending: Pending
    tensor: torch.Tensor


class Transport:
    """The boundaries of this rank's stages for one step after another."""

    def __init__(self, plan: Plan, world: World, messages: Messages | None = None) -> None:
        self.world, self.messages = world, messages or GroupMessages()
        self.boundaries = {b.left: b for b in plan.boundaries}
        self.arriving: dict[Message, _Arrival] = {}
        self.leaving: dict[Message, list[_Departure]] = {}

    def post(self, message: Message, microbatch: Sizes) -> None:
        """Post the receives of a message's tensors, of a microbatch of such sizes."""
        source = self.world.rank_of(message.sender)
        group = self.world.channels[Channel(source, self.world.rank)]
        arrival = _Arrival([], [])
        for tensor in self._carried(message):
            sizes, order = tensor.sizes(microbatch), _memory_order(tensor)
            # As it lies in memory, from the outermost dimension to the innermost.
            buffer = torch.empty(
                [sizes[dimension] for dimension in order],
                dtype=getattr(torch, tensor.dtype),
                device=self.world.device,
            )
            arrival.pending.append(self.messages.irecv(buffer, source, group))
            arrival.tensors.append(buffer.permute([order.index(d) for d in range(len(order))]))
        self.arriving[message] = arrival

    def awaits(self, message: Message) -> bool:
        """Whether a receive was posted that is not taken yet."""
        return message in self.arriving and bool(self.arriving[message].pending)

    def hand_over(self, message: Message, tensors: list[torch.Tensor]) -> None:
        """Pass what a stage of this rank made to another stage of this rank."""
        if message.direction == "B":
            # A boundary's gradients are those of the tensors that need one.
            assert len(tensors) == len(self._carried(message))
        self.arriving[message] = _Arrival(tensors, [])

    def take(self, message: Message) -> list[torch.Tensor]:
        """Wait for what was posted; empty when nothing was."""
        arrival = self.arriving.pop(message, _Arrival([], []))
        for pending in arrival.pending:
            pending.wait()
        if message.direction == "B":
            # The gradient has arrived, so the activation was received.
            self._let_go(message.answer)
        return arrival.tensors

    def send(self, message: Message, microbatch: Sizes, tensors: list[torch.Tensor]) -> None:
        """Start sending; the tensors are kept until they have left.

        Raises RunError where they are not what the receiver has buffers for.
        """
        target = self.world.rank_of(message.receiver)
        group = self.world.channels[Channel(self.world.rank, target)]
        carried = self._carried(message)
        _check(message, carried, tensors, microbatch)
        earlier = [sent for sent in self.leaving if sent.hop == message.hop]
        for sent in earlier[: max(0, len(earlier) - MOST_LEAVING)]:
            self._let_go(sent)
        leaving = self.leaving[message] = []
        for tensor, expected in zip(tensors, carried, strict=True):
            # The receiver gets the same layout in memory: with another, its kernels would round
            # differently.
            in_memory = tensor.detach().permute(_memory_order(expected)).contiguous()
            pending = self.messages.isend(in_memory, target, group)
            leaving.append(_Departure(pending, in_memory))

    def _let_go(self, message: Message) -> None:
        """Wait until a message has left. gloo says so of a send only when it is waited for."""
        for departure in self.leaving.pop(message, []):
            departure.pending.wait()

    def finish(self) -> None:
        """Wait until everything has left."""
        for message in list(self.leaving):
            self._let_go(message)

    def _carried(self, message: Message) -> list[Tensor]:
        """The tensors of a message: of gradients, those of the tensors that need one."""
        tensors = self.boundaries[message.hop.boundary].tensors
        return [t for t in tensors if message.direction == "F" or t.needs_grad]


def _memory_order(tensor: Tensor) -> list[int]:
    """The dimensions from the outermost in memory to the innermost."""
    return tensor.order or list(range(len(tensor.shape)))


def _check(
    message: Message, carried: list[Tensor], tensors: list[torch.Tensor], microbatch: Sizes
) -> None:
    """Neither NCCL nor gloo compare types: the bytes of one would be read as the other."""
    stage, content = message.sender, "activation" if message.direction == "F" else "gradient"
    if len(tensors) != len(carried):
        raise RunError(
            f"stage {stage} made {len(tensors)} {content}s to send, the plan has {len(carried)}; "
            "compile again"
        )
    for tensor, expected in zip(tensors, carried, strict=True):
        dtype, shape = getattr(torch, expected.dtype), expected.sizes(microbatch)
        if tensor.dtype != dtype or list(tensor.shape) != shape:
            raise RunError(
                f"stage {stage} made the {content} of {expected.name} as "
                f"{tensor.dtype}{list(tensor.shape)}, the plan sends {dtype}{shape}; run the step "
                "without autocast, since the job's `precision` says what stages compute in, and "
                "compile again where the model has changed"
            )
