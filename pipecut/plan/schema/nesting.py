"""Inputs of a batch that are nested: dicts, lists, dataclasses of tensors."""

from collections.abc import Mapping

from pipecut.plan.schema.numbers import PlanModel


class Container(PlanModel):
    """One of them: its `kind`, and its keys in order; a list's and a tuple's are 0, 1 and so on.

    A kind is `dict`, `list`, `tuple`, or `module:Class` of a dataclass, a named tuple or a mapping.
    """

    kind: str
    keys: list[int | str]


# By name, which is that of an input, or that of the container around it with a dot and the key.
Nesting = Mapping[str, Container]


def name_within(container: str, key: int | str) -> str:
    """The name of what a container has under a key: `batch.pixels.0`."""
    return f"{container}.{key}"
