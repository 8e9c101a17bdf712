"""Let a model do while it is traced what it does in training.

Libraries leave out fast paths where they know that they are exported: transformers then makes a
mask for plain causal attention and repeats the heads of keys and values. That costs memory, keeps
flash attention away and does not round as the unsplit model does. What such a path reads must be a
constant; else the trace fails and is tried again without this.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from pipecut.compiler.trace.watch.value_reads import ValueReads

# transformers asks these two: is torch exporting, and is this tensor a fake one.
FAKE_CHECK = "transformers.utils.import_utils"


class _CalledPlainly:
    """In place of what torch.utils.checkpoint(use_reentrant=True) calls.

    A trace would take that function's no_grad for the model's own.
    """

    @staticmethod
    def apply(function: Callable[..., Any], _: bool, *args: Any) -> Any:
        return function(*args)


@contextmanager
def without_checkpoints() -> Iterator[None]:
    """Let checkpointed code run plainly: a plan says by itself what is recomputed."""
    with mock.patch("torch.utils.checkpoint.CheckpointFunction", _CalledPlainly):
        yield


@contextmanager
def eager_paths(reads: ValueReads) -> Iterator[None]:
    """Hide from the model that it is traced; `reads` answers it instead."""
    compiler: Any = torch.compiler
    with (
        mock.patch.multiple(compiler, _is_compiling_flag=False, _is_exporting_flag=False),
        reads,
    ):
        library = sys.modules.get(FAKE_CHECK)
        if not hasattr(library, "is_fake_tensor"):
            yield
            return
        with mock.patch.object(library, "is_fake_tensor", lambda _: False):
            yield
