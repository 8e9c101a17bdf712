"""NCCL's rules over gloo, for machines without a GPU.

`Nccl`: the first use of a channel blocks the host until the other rank uses it too; messages run
one after the other, in the order of the calls; a send is done once its receive ran.

`Lagging`: also, messages run on a stream of their own, as late as possible. What is sent is read
when the receive runs, so a tensor that was freed by then arrives as NaN, and one that was changed
arrives changed; what is received is NaN until it is waited for.
"""

import contextlib
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch

# Tags are for the emulation itself: the first use, a receive that runs, a message.
HELLO, GO, DATA = 1, 2, 3
# Seconds that a receive lags, where nobody waits for it.
LAG = 0.02


class Pending:
    """A message that was asked for and may not have run yet."""

    def __init__(self, run: Callable[["Pending"], None]) -> None:
        self.run = run
        self.done, self.wanted = threading.Event(), threading.Event()
        self.error: Exception | None = None
        # What a stream that waits for it sees then.
        self.seen: Callable[[], None] = lambda: None

    def wait(self) -> None:
        """Block until the message ran. Raises what went wrong."""
        self.wanted.set()
        self.done.wait()
        if self.error is not None:
            raise self.error
        self.seen()


class Communicator:
    """One end of a channel: messages run one after the other, on a thread of its own."""

    def __init__(self, group: Any) -> None:
        self.group, self.peer = group, 1 - group.rank()
        hello = torch.ones(1)
        works = [
            group.send([hello], self.peer, HELLO),
            group.recv([torch.empty(1)], self.peer, HELLO),
        ]
        for work in works:
            work.wait()
        self.queue: queue.SimpleQueue[Pending] = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True).start()

    def put(self, run: Callable[[Pending], None]) -> Pending:
        """Run a function after all that were put before."""
        pending = Pending(run)
        self.queue.put(pending)
        return pending

    def _serve(self) -> None:
        while True:
            pending = self.queue.get()
            try:
                pending.run(pending)
            except Exception as error:
                pending.error = error
            pending.done.set()

    def send(self, tensor: torch.Tensor, tag: int = DATA) -> None:
        """Block until the other end has the tensor."""
        self.group.send([tensor], self.peer, tag).wait()

    def receive(self, tensor: torch.Tensor, tag: int = DATA) -> None:
        """Block until the tensor has arrived."""
        self.group.recv([tensor], self.peer, tag).wait()


class Nccl:
    """The messages of one rank, under NCCL's rules."""

    def __init__(self) -> None:
        self.communicators: dict[int, Communicator] = {}

    def _communicator(self, group: Any) -> Communicator:
        # A group lives as long as its world, so its id is its own.
        if id(group) not in self.communicators:
            self.communicators[id(group)] = Communicator(group)
        return self.communicators[id(group)]

    def isend(self, tensor: torch.Tensor, target: int, group: Any) -> Pending:
        """Begin to send."""
        channel = self._communicator(group)
        return channel.put(lambda _: channel.send(tensor))

    def irecv(self, tensor: torch.Tensor, source: int, group: Any) -> Pending:
        """Begin to receive."""
        channel = self._communicator(group)
        return channel.put(lambda _: channel.receive(tensor))


class Lagging(Nccl):
    """The messages of one rank, as late as NCCL may run them."""

    def isend(self, tensor: torch.Tensor, target: int, group: Any) -> Pending:
        """Begin to send; the tensor is not kept."""
        channel, memory = self._communicator(group), _Memory(tensor)

        def run(_: Pending) -> None:
            channel.receive(torch.empty(1), GO)
            channel.send(memory.read())

        return channel.put(run)

    def irecv(self, tensor: torch.Tensor, source: int, group: Any) -> Pending:
        """Begin to receive; the tensor is not kept."""
        channel, memory = self._communicator(group), _Memory(tensor)
        memory.write(memory.nothing())

        def run(pending: Pending) -> None:
            pending.wanted.wait(LAG)
            channel.send(torch.ones(1), GO)
            values = memory.nothing()
            channel.receive(values)
            # Whoever reads before it has waited reads NaN.
            pending.seen = lambda: memory.write(values)

        return channel.put(run)


class _Memory:
    """The memory of a contiguous tensor, which may be freed meanwhile."""

    def __init__(self, tensor: torch.Tensor) -> None:
        assert tensor.is_contiguous()
        self.storage = weakref.ref(tensor.untyped_storage())
        self.offset, self.shape, self.dtype = tensor.storage_offset(), tensor.shape, tensor.dtype

    def nothing(self) -> torch.Tensor:
        """The values of memory that has none: NaN, or 0."""
        floating = self.dtype.is_floating_point or self.dtype.is_complex
        return torch.full(self.shape, float("nan") if floating else 0, dtype=self.dtype)

    def _tensor(self) -> torch.Tensor | None:
        storage = self.storage()
        if storage is None:
            return None
        return torch.empty(0, dtype=self.dtype).set_(storage, self.offset, self.shape)

    def read(self) -> torch.Tensor:
        """The tensor's values now."""
        tensor = self._tensor()
        return self.nothing() if tensor is None else tensor.clone()

    def write(self, values: torch.Tensor) -> None:
        """Put values into the tensor, if it is not freed."""
        tensor = self._tensor()
        if tensor is not None:
            with contextlib.suppress(RuntimeError), torch.no_grad():
                tensor.copy_(values)
