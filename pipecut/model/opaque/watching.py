"""Something done as opaque modules begin and end."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from torch import nn

from pipecut.model.draws import Draws


@contextmanager
def watched(
    model: nn.Module,
    names: Iterable[str],
    begin: Callable[[], None],
    end: Callable[[str, Any], None],
) -> Iterator[None]:
    """Meanwhile call `begin` before each call of these modules, `end` with name and result after.

    They are outside of what hooks the modules have of their own.
    """
    with ExitStack() as stack:
        for name in names:
            module = model.get_submodule(name)

            def ended(_module: Any, _args: Any, result: Any, name: str = name) -> None:
                end(name, result)

            before = module.register_forward_pre_hook(lambda *_: begin(), prepend=True)
            stack.callback(before.remove)
            stack.callback(module.register_forward_hook(ended).remove)
        yield


def drawing_once(
    model: nn.Module, names: Iterable[str], draws: Draws
) -> AbstractContextManager[None]:
    """Let each call of these modules be one draw of the model."""
    return watched(model, names, draws.begin_opaque, lambda *_: draws.end_opaque())
