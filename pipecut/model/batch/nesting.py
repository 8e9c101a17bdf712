"""Nested inputs taken apart into tensors and constants with names, and put together again."""

import importlib
from collections import UserDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch

from pipecut.errors import PlanError, TraceError
from pipecut.plan.schema import Container, Nesting, name_within

PLAIN = {"dict": dict, "list": list, "tuple": tuple}
# No batch nests deeper, unless a container holds itself.
DEEPEST = 32
# What a BatchEncoding of transformers keeps of the text; without it methods that need it raise.
OF_THE_TEXT = {"_encodings", "_n_sequences"}


@dataclass(frozen=True)
class TakenApart:
    """A batch's tensors and other leaves by name, in order, and what they were nested in."""

    leaves: dict[str, Any] = field(default_factory=dict)
    nesting: dict[str, Container] = field(default_factory=dict)


def kind_of(value: Any) -> str | None:
    """The kind of a container, as `Container` has it; None for a leaf."""
    cls = type(value)
    if PLAIN.get(cls.__name__) is cls:
        return cls.__name__
    if isinstance(value, torch.Tensor | type):
        return None
    named_tuple = isinstance(value, tuple) and hasattr(cls, "_fields")
    if isinstance(value, Mapping) or named_tuple or is_dataclass(value):
        return f"{cls.__module__}:{cls.__qualname__}"
    return None


def members_of(container: Any) -> dict[Any, Any]:
    """What a container has, by key."""
    if isinstance(container, Mapping):
        return dict(container.items())
    if hasattr(type(container), "_fields"):
        return dict(zip(type(container)._fields, container, strict=True))
    if isinstance(container, list | tuple):
        return dict(enumerate(container))
    return {each.name: getattr(container, each.name) for each in fields(container)}


def take_apart(batch: Mapping[str, Any], source: str) -> TakenApart:
    """The example batch that the function `source` returned. Raises TraceError."""
    apart = TakenApart()
    for name, value in batch.items():
        _take_apart(apart, name, value, source, 0)
    return apart


def _take_apart(apart: TakenApart, name: str, value: Any, source: str, depth: int) -> None:
    where = f"'{name}' of {source}"
    if name in apart.leaves or name in apart.nesting:
        raise TraceError(f"{where} is the name of two things in the batch; rename one of them")
    kind = kind_of(value)
    if kind is None:
        apart.leaves[name] = value
        return
    if depth == DEEPEST:
        raise TraceError(f"{where} is nested deeper than {DEEPEST}; does it hold itself?")
    members = members_of(value)
    for key in members:
        if type(key) not in (str, int):
            raise TraceError(f"{where} has the key {key!r}; keys must be strings or whole numbers")
    _check_class(value, kind, members, where)
    apart.nesting[name] = Container(kind=kind, keys=list(members))
    for key, member in members.items():
        _take_apart(apart, name_within(name, key), member, source, depth + 1)


def _check_class(value: Any, kind: str, members: dict[Any, Any], where: str) -> None:
    """Raises TraceError for a container that cannot be made again of its members."""
    if kind in PLAIN:
        return
    remedy = "return a dict, or a dataclass that is defined at the top of a module"
    try:
        cls = _class_of(kind)
    except (ImportError, AttributeError):
        cls = None
    if cls is not type(value):
        raise TraceError(f"{where} is a {kind}, which cannot be imported by that name; {remedy}")
    if isinstance(value, Mapping) and not isinstance(value, dict | UserDict):
        raise TraceError(f"{where} is a {kind}, which may hold more than its keys; {remedy}")
    try:
        made = vars(_made(kind, members)) if hasattr(value, "__dict__") else {}
    except Exception as error:
        raise TraceError(
            f"{where} cannot be made again of its members: {error}; {remedy}"
        ) from error
    known = {"data", *members, *OF_THE_TEXT}
    own = vars(value) if hasattr(value, "__dict__") else {}
    for attribute, held in own.items():
        if attribute not in known and made.get(attribute) is not held:
            raise TraceError(
                f"{where} is a {kind} with '{attribute}' beside its members, which no microbatch "
                "would have; make it a field, or leave it out"
            )


def _class_of(kind: str) -> type:
    module, _, name = kind.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    if not isinstance(found, type):
        raise AttributeError(f"{kind} is no class")
    return found


def _made(kind: str, members: Mapping[Any, Any]) -> Any:
    """A container of its members, without what its class does when one is made of them."""
    if kind == "dict":
        return dict(members)
    if kind in PLAIN:
        return PLAIN[kind](members.values())
    try:
        cls: Any = _class_of(kind)
    except (ImportError, AttributeError, ValueError) as error:
        raise PlanError(
            f"inputs are nested in {kind}, which is not here ({error}); compile again"
        ) from error
    if issubclass(cls, tuple):
        return tuple.__new__(cls, members.values())
    if issubclass(cls, dict | UserDict):
        made = cls()
        for key, member in members.items():
            made[key] = member
        return made
    made = object.__new__(cls)
    for name, member in members.items():
        object.__setattr__(made, name, member)
    return made


def nested(nesting: Nesting, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The batch as the model takes it. A mapping lacks the keys that `leaves` lacks."""
    inner = {name_within(name, key) for name, each in nesting.items() for key in each.keys}
    within = {*inner, *nesting}
    batch = {name: leaf for name, leaf in leaves.items() if name not in within}
    for name in nesting:
        if name not in inner:
            batch[name] = _nested(nesting, leaves, name)
    return batch


def _nested(nesting: Nesting, leaves: Mapping[str, Any], name: str) -> Any:
    container = nesting.get(name)
    if container is None:
        return leaves[name]
    names = {key: name_within(name, key) for key in container.keys}
    members = {
        key: _nested(nesting, leaves, each)
        for key, each in names.items()
        if each in leaves or each in nesting
    }
    return _made(container.kind, members)


def different_nesting(first: Nesting, second: Nesting) -> Iterator[tuple[str, str]]:
    """Names of containers that are not alike in two batches, and how these differ."""
    for name, container in first.items():
        other = second.get(name)
        if other is None or other.kind != container.kind:
            yield name, f"a {container.kind} in one and not in the other"
        elif other.keys != container.keys:
            if container.kind in ("list", "tuple"):
                yield name, f"a {container.kind} of {len(container.keys)}, then {len(other.keys)}"
            else:
                yield name, f"of keys {container.keys}, then {other.keys}"
