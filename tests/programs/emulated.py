"""NCCL's rules over gloo, for what has no GPU to run on.

`Nccl`: the first use of a channel keeps the host until the other rank uses it too; its messages go one
after the other, in the order they were given, whatever they are; a send is done once its receive ran.

`Lagging` besides: messages run on a stream of their own, as late as it may be. What is sent is read
when the receive runs, so a tensor that was let go by then arrives as NaN, and one that was changed
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
    """A message on its way."""

    def __init__(self, run: Callable[["Pending"], None]) -> None:
        self.run = run
        self.done, self.wanted = threading.Event(), threading.Event()
        self.error: Exception | None = None
        # What a stream that waits for it sees then.
        self.seen: Callable[[], None] = lambda: None

    def wait(self) -> None:
        """Until it is done. Raises what went wrong."""
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
        """Let something run after all that was put before."""
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
        """Until the other end has it."""
        self.group.send([tensor], self.peer, tag).wait()

    def receive(self, tensor: torch.Tensor, tag: int = DATA) -> None:
        """Until it is here."""
        self.group.recv([tensor], self.peer, tag).wait()


class Nccl:
    """Messages as NCCL's rules have them; of one rank."""

    def __init__(self) -> None:
        self.ends: dict[int, Communicator] = {}

    def _end(self, group: Any) -> Communicator:
        # A group lives as long as its world, so its id is its own.
        if id(group) not in self.ends:
            self.ends[id(group)] = Communicator(group)
        return self.ends[id(group)]

    def isend(self, tensor: torch.Tensor, target: int, group: Any) -> Pending:
        """Begin to send."""
        end = self._end(group)
        return end.put(lambda _: end.send(tensor))

    def irecv(self, tensor: torch.Tensor, source: int, group: Any) -> Pending:
        """Begin to receive."""
        end = self._end(group)
        return end.put(lambda _: end.receive(tensor))


class Lagging(Nccl):
    """Messages as late as they may be; of one rank."""

    def isend(self, tensor: torch.Tensor, target: int, group: Any) -> Pending:
        """Begin to send; the tensor is not kept."""
        end, memory = self._end(group), _Memory(tensor)

        def run(_: Pending) -> None:
            end.receive(torch.empty(1), GO)
            end.send(memory.read())

        return end.put(run)

    def irecv(self, tensor: torch.Tensor, source: int, group: Any) -> Pending:
        """Begin to receive; the tensor is not kept."""
        end, memory = self._end(group), _Memory(tensor)
        memory.write(memory.nothing())

        def run(pending: Pending) -> None:
            pending.wanted.wait(LAG)
            end.send(torch.ones(1), GO)
            values = memory.nothing()
            end.receive(values)
            # Whoever reads before it has waited reads NaN.
            pending.seen = lambda: memory.write(values)

        return end.put(run)


class _Memory:
    """Where a contiguous tensor lies, without keeping it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        assert tensor.is_contiguous()
        self.storage = weakref.ref(tensor.untyped_storage())
        self.offset, self.shape, self.dtype = tensor.storage_offset(), tensor.shape, tensor.dtype

    def nothing(self) -> torch.Tensor:
        """What stands where nothing is."""
        floating = self.dtype.is_floating_point or self.dtype.is_complex
        return torch.full(self.shape, float("nan") if floating else 0, dtype=self.dtype)

    def _tensor(self) -> torch.Tensor | None:
        storage = self.storage()
        if storage is None:
            return None
        return torch.empty(0, dtype=self.dtype).set_(storage, self.offset, self.shape)

    def read(self) -> torch.Tensor:
        """Its values now."""
        tensor = self._tensor()
        return self.nothing() if tensor is None else tensor.clone()

    def write(self, values: torch.Tensor) -> None:
        """Put values there, if it is still there."""
        tensor = self._tensor()
        if tensor is not None:
            with contextlib.suppress(RuntimeError), torch.no_grad():
                tensor.copy_(values)
