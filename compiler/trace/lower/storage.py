"""Which inputs an operator writes to, and with which its result may share storage."""

import operator as python_operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from pipecut.compiler.operators.lookup import rule_of
from pipecut.compiler.trace.lower.arguments import references
from pipecut.compiler.trace.lower.names import part_name
from pipecut.compiler.trace.lower.source import where
from pipecut.compiler.trace.lower.values import Values
from pipecut.errors import TraceError


@dataclass(frozen=True)
class Effects:
    """What a call does to storages, by the names of its inputs.

    `shared`: the traced result has their storage. `aliases`: that, or it may have. `writes`: it
    writes to them.
    """

    shared: tuple[str, ...]
    aliases: tuple[str, ...]
    writes: tuple[str, ...]


class Storages:
    """Effects of a program's calls."""

    def __init__(self, values: Values) -> None:
        self.values = values
        # For a result or a part of it, the inputs whose storage it has in the trace.
        self._shared: dict[str, tuple[str, ...]] = {}

    def effects(
        self,
        name: str,
        node: fx.Node,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Effects:
        """Effects of the node whose result has a name."""
        inputs = tuple(dict.fromkeys(references((args, kwargs))))
        shared = self._shared[name] = self._shared_inputs(name, node, inputs)
        if node.target is python_operator.getitem:
            return Effects(shared, tuple(dict.fromkeys((*shared, *inputs))), ())
        writes, aliases = _writes(node, args, kwargs), _aliases(node, args, kwargs)
        return Effects(shared, tuple(dict.fromkeys((*shared, *aliases))), tuple(writes))

    def of_function(self, name: str, shared: Sequence[tuple[str, ...]]) -> Effects:
        """Effects of a Function's call; `shared` are the inputs whose storage each result has."""
        for index, inputs in enumerate(shared):
            self._shared[part_name(name, index)] = inputs
        together = tuple(dict.fromkeys(name for inputs in shared for name in inputs))
        self._shared[name] = together
        return Effects(together, together, ())

    def _shared_inputs(self, name: str, node: fx.Node, inputs: tuple[str, ...]) -> tuple[str, ...]:
        """Inputs whose storage the traced result has; einsum's schema, for one, names none."""
        if node.target is python_operator.getitem:
            return self._shared.get(part_name(inputs[0], node.args[1]), ())
        result = node.meta.get("val")
        storages = set()
        for index, part in enumerate(result if isinstance(result, list | tuple) else (result,)):
            if isinstance(part, torch.Tensor) and part.layout == torch.strided:
                storage = _storage_of(part, node)
                storages.add(storage)
                self._shared[part_name(name, index)] = self._with_storage(inputs, {storage})
        return self._with_storage(inputs, storages)

    def _with_storage(self, inputs: tuple[str, ...], storages: set[int]) -> tuple[str, ...]:
        return tuple(name for name in inputs if self.values.storage.get(name) in storages)


def _storage_of(part: torch.Tensor, node: fx.Node) -> int:
    """Raises TraceError for a tensor within torch.func.grad or its like, which has none."""
    try:
        return int(part.untyped_storage()._cdata)
    except NotImplementedError:
        raise TraceError(
            "the model's forward transforms a function, as torch.func.grad does, and within it "
            f"{node.target}{where(node)} has no tensors that a stage could compute; put that part "
            "into a module of its own, and name it under model.opaque: it then runs as it is"
        ) from None


def _annotated(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
    """The schema's arguments with an alias annotation, beside what the call passes for them."""
    schema = getattr(node.target, "_schema", None)
    for index, argument in enumerate(schema.arguments if schema is not None else ()):
        if argument.alias_info is not None:
            passed = args[index] if index < len(args) else kwargs.get(argument.name)
            yield argument.alias_info, passed


def _writes(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    rule = rule_of(str(node.target))
    writes: list[str] = []
    for alias, passed in _annotated(node, args, kwargs):
        if alias.is_write and not rule.writes_nothing:
            writes += references(passed)
    flag = rule.training_flag
    if rule.statistics and flag is not None and len(args) > flag and args[flag]:
        for position in rule.statistics:
            writes += references(args[position])
    return writes


def _aliases(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    aliases = [name for _, passed in _annotated(node, args, kwargs) for name in references(passed)]
    return aliases + (list(references(args[:1])) if rule_of(str(node.target)).may_alias else [])
