"""Something done as opaque modules begin and end."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from pipecut.model.draws import Draws
from pipecut.model.opaque.assigned_buffers import buffers_of, keep_in_place


@contextmanager
def watched(
    model: nn.Module,
    names: Iterable[str],
    begin: Callable[[], None],
    end: Callable[[str, Any], None],
) -> Iterator[None]:
    """Meanwhile call `begin` before each call of these modules, `end` with name and result after.

    They are outside of what hooks the modules have of their own. Buffers that the modules assign
    stay the tensors that they were.
    """
    with ExitStack() as stack:
        for name in names:
            module = model.get_submodule(name)
            found: dict[str, torch.Tensor] = {}

            def begins(module: Any, _: Any, found: dict[str, torch.Tensor] = found) -> None:
                found.update(buffers_of(module))
                begin()

            def ended(
                module: Any,
                _: Any,
                result: Any,
                name: str = name,
                found: dict[str, torch.Tensor] = found,
            ) -> None:
                keep_in_place(module, found)
                end(name, result)

            before = module.register_forward_pre_hook(begins, prepend=True)
            stack.callback(before.remove)
            stack.callback(module.register_forward_hook(ended).remove)
        yield


def drawing_once(
    model: nn.Module, names: Iterable[str], draws: Draws
) -> AbstractContextManager[None]:
    """Let each call of these modules be one draw of the model."""
    return watched(model, names, draws.begin_opaque, lambda *_: draws.end_opaque())
