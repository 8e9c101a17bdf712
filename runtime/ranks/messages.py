"""One-way messages between two ranks, over torch.distributed or a test's stand-in.

Messages have no tags, since NCCL ignores them: the i-th sent on a channel is the i-th received.
"""

from typing import Protocol

import torch
import torch.distributed as dist


class Pending(Protocol):
    """A message on its way."""

    def wait(self) -> object:
        """Return once it has arrived, or left; a GPU's stream waits in place of the host."""


class Messages(Protocol):
    """Sends and receives of tensors."""

    def isend(self, tensor: torch.Tensor, target: int, group: dist.ProcessGroup) -> Pending:
        """Begin to send; the tensor must stay as it is until it has left."""

    def irecv(self, tensor: torch.Tensor, source: int, group: dist.ProcessGroup) -> Pending:
        """Begin to receive into a tensor."""


class GroupMessages:
    """Messages over the process group of a channel."""

    def isend(self, tensor: torch.Tensor, target: int, group: dist.ProcessGroup) -> Pending:
        """Begin to send."""
        work = dist.isend(tensor, target, group=group)
        assert work is not None
        return work

    def irecv(self, tensor: torch.Tensor, source: int, group: dist.ProcessGroup) -> Pending:
        """Begin to receive."""
        work = dist.irecv(tensor, source, group=group)
        assert work is not None
        return work
