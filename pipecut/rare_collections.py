"""Python's garbage collector, which looks at every object again and again, runs rarely."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Objects made before the young are looked at, and how often that is before older ones are. With
# Python's own 700, 10, 10 a fifth of a compile goes to looking; with these, memory grows by 20 MB.
RARELY = (200_000, 20, 50)


@contextmanager
def rare_collections() -> Iterator[None]:
    """Around what makes many objects that live on."""
    before = gc.get_threshold()
    gc.set_threshold(*RARELY)
    try:
        yield
    finally:
        gc.set_threshold(*before)
