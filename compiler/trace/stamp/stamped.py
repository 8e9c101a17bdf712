"""What a trace says of the layers that it stamped instead of tracing them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipecut.errors import PipecutError


class NotEqualAfterAll(PipecutError):
    """Layers cannot be proven equal, so the model is traced whole; nobody but the tracer sees it.

    The text says which layers, and what differs.
    """


@dataclass(frozen=True)
class Stamped:
    """Calls of layers by number: `paths` has the layers' FQNs.

    `template_of` maps a stamped call to the traced one whose operators it has, `proof_of` a traced
    call to the one that it must be equal to. `summary` has a line for people per kind of layers.
    """

    paths: Mapping[int, str] = field(default_factory=dict)
    template_of: Mapping[int, int] = field(default_factory=dict)
    proof_of: Mapping[int, int] = field(default_factory=dict)
    summary: tuple[str, ...] = ()


NOTHING_STAMPED = Stamped()
