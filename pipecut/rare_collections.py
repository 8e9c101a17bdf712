"""Python's garbage collector, which looks at every object again and again, runs rarely."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Objects made before the young are looked at, and how often that is before older ones are. With
# Python's own 700, 10, 10 a fifth of a compile goes to looking; with these, memory grows by 20 MB.
RARELY = (200_000, 20, 50)
USUAL = gc.get_threshold()


@contextmanager
def rare_collections() -> Iterator[None]:
    """Around what makes many objects that live on."""
    before = gc.get_threshold()
    gc.set_threshold(*RARELY)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def collect_rarely() -> None:
    """For the rest of a process of pipecut's own, or while it imports torch."""
    gc.set_threshold(*RARELY)


def collect_usually() -> None:
    """After the imports of a process that runs a model: garbage may hold its tensors.

    What was imported lives to the end, and is not looked at again, nor when the process ends.
    """
    gc.freeze()
    gc.set_threshold(*USUAL)


def collect_no_more() -> None:
    """At the end of a process: with torch, the interpreter's own last look takes a second."""
    gc.freeze()
