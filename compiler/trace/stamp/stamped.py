"""What a trace says of the layers that it stamped instead of tracing them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipecut.errors import PipecutError


@dataclass(frozen=True)
class Template:
    """A traced call that stamped ones have the operators of: the number of the call, its module.

    `form` and `results` say how it was called and what it returned; `modes` have `training` of the
    module and those in it; `summary` says in a few words which layers are like it.
    """

    number: int
    module: Any
    form: Any
    results: Any
    modes: tuple[bool, ...]
    summary: str


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
    templates: tuple[Template, ...] = ()

    def counterparts(self, names: Iterable[str]) -> dict[str, str]:
        """FQNs of tensors in layers that were stamped, to those in the traced one."""
        template_of = {
            self.paths[call]: self.paths[template] for call, template in self.template_of.items()
        }
        names_in_template = {}
        for name in names:
            parts = name.split(".")
            for length in range(len(parts), 0, -1):
                template = template_of.get(".".join(parts[:length]))
                if template is not None:
                    names_in_template[name] = ".".join([template, *parts[length:]])
        return names_in_template


NOTHING_STAMPED = Stamped()
