"""Forward hooks that a model gives to its modules when it first runs, as transformers does.

torch.export takes back what forward assigns to modules, so a model forgets that it has its hooks.
Each trace begins with those that the model had when it was built, or it would have them twice.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

HELD = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


@contextmanager
def forward_hooks_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards the model's modules have the forward hooks that they have now."""
    before = [
        (hooks, dict(hooks))
        for module in model.modules()
        for hooks in (getattr(module, name) for name in HELD)
    ]
    try:
        yield
    finally:
        for hooks, had in before:
            hooks.clear()
            hooks.update(had)
