"""The host queues no more than it has to ahead of a device."""

import torch

from pipecut.runtime.engine.ahead import Ahead


def test_the_host_is_at_most_two_computes_ahead_of_the_device() -> None:
    queued: list[int] = []

    class Event:
        def record(self) -> None:
            queued.append(len(made))

        def synchronize(self) -> None:
            queued.remove(self.number)

        def __init__(self) -> None:
            made.append(self)
            self.number = len(made)

    made: list[Event] = []
    ahead = Ahead(Event)
    for _ in range(10):
        ahead.before()
        assert len(queued) < 2
        ahead.after()
    assert len(made) == 10


def test_nothing_is_waited_for_on_a_cpu() -> None:
    ahead = Ahead.of(torch.device("cpu"))
    for _ in range(10):
        ahead.before()
        ahead.after()
    assert not ahead.marks
