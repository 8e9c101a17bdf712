"""The operators of stamped layers: those of the traced one, under the names of their own layer."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any, Protocol

from pipecut.compiler.choices import Check
from pipecut.compiler.graph import (
    ModuleCall,
    Operator,
    Ref,
    TracedLayer,
    Value,
    storage_roots,
)
from pipecut.compiler.trace.stamp.stamped import NotEqualAfterAll, Stamped


@dataclass(frozen=True)
class Marker:
    """A marker as lowering reads it.

    It stands in a graph whose names have a prefix; `tensors` are those that a layer takes or makes;
    `calls` are the calls of modules around it, the layer's own last.
    """

    prefix: str
    contexts: tuple[str, ...]
    tensors: tuple[str, ...]
    calls: tuple[ModuleCall, ...]
    call: int


class Program(Protocol):
    """What has been read of a program: operators in order, values, storages and draws.

    `shared` has for each operator the inputs whose storage its result has.
    """

    operators: list[Operator]
    shared: list[tuple[str, ...]]
    checks: list[Check]
    draws: int

    @property
    def by_name(self) -> Mapping[str, Value]:
        """All values so far."""

    @property
    def storage(self) -> dict[str, int]:
        """A value to a number of its storage."""

    def add(self, operator: Operator, shared: tuple[str, ...], values: Sequence[Value]) -> None:
        """Append an operator with its results."""

    def alias(self, name: str, value: str) -> None:
        """Let a name stand for a value."""


@dataclass(frozen=True)
class _Region:
    """What was read of a traced layer."""

    path: str
    begin: Marker
    nodes: tuple[str, ...]
    operators: tuple[Operator, ...]
    shared: tuple[tuple[str, ...], ...]
    values: tuple[Value, ...]
    storages: Mapping[str, int]
    made: tuple[str, ...]
    checks: tuple[Check, ...]
    first_draw: int
    draws: int

    @property
    def names(self) -> set[str]:
        """Names of its operators."""
        return {operator.name for operator in self.operators}


@dataclass(frozen=True)
class _Begun:
    """A traced layer whose end has not been read: how much there was before it."""

    marker: Marker
    operators: int
    values: int
    checks: int
    draws: int


class Stamps:
    """Reads the markers of one program in their order.

    `tensors` has the values of parameters and buffers by FQN, `constants` those of plain tensors.
    """

    def __init__(
        self,
        stamped: Stamped,
        program: Program,
        tensors: Mapping[str, str],
        constants: Collection[str],
    ) -> None:
        self._stamped, self._program = stamped, program
        self._tensors, self._constants = tensors, frozenset(constants)
        self._begun: _Begun | None = None
        self._regions: dict[int, _Region] = {}
        # Nodes of the call that is read now.
        self._nodes: list[str] = []
        self._with_nested: set[int] = set()
        self._stamped_operators: set[str] = set()
        # What each stamped call makes, by name.
        self._made: dict[int, tuple[str, ...]] = {}
        # Storages that no traced tensor has.
        self._unused_storages = count(-1, -1)

    def nested(self) -> None:
        """A nested graph is read. A layer that has one is no template: its names are not known."""
        if self._begun is not None:
            self._with_nested.add(self._begun.marker.call)

    def begin(self, marker: Marker) -> None:
        """A layer begins."""
        program = self._program
        self._nodes = []
        self._begun = _Begun(
            marker,
            len(program.operators),
            len(program.by_name),
            len(program.checks),
            program.draws,
        )

    def node(self, name: str) -> None:
        """A node of a layer, or one that stands for it."""
        if self._begun is not None:
            self._nodes.append(name)

    def end(self, marker: Marker) -> None:
        """It ends, and makes the marker's tensors. Raises NotEqualAfterAll."""
        program, begun, nodes = self._program, self._finish(marker), tuple(self._nodes)
        values = tuple(islice(program.by_name.values(), begun.values, None))
        region = _Region(
            self._stamped.paths[marker.call],
            begun.marker,
            nodes,
            tuple(program.operators[begun.operators :]),
            tuple(program.shared[begun.operators :]),
            values,
            {value.name: program.storage[value.name] for value in values},
            marker.tensors,
            tuple(program.checks[begun.checks :]),
            begun.draws,
            program.draws - begun.draws,
        )
        self._regions[marker.call] = region

    def _finish(self, marker: Marker) -> _Begun:
        begun, self._begun = self._begun, None
        if begun is None or begun.marker.call != marker.call:
            raise NotEqualAfterAll(f"{self._path(marker)} is not traced in one piece")
        return begun

    def body(self, marker: Marker) -> None:
        """Put a stamped layer's operators here. Raises NotEqualAfterAll."""
        self._finish(marker)
        template = self._regions[self._stamped.template_of[marker.call]]
        self._check_template(template)
        path = self._stamped.paths[marker.call]
        same_settings = (marker.prefix, marker.contexts) == (
            template.begin.prefix,
            template.begin.contexts,
        )
        if not same_settings or len(self._nodes) != len(template.nodes):
            raise NotEqualAfterAll(f"'{path}' has other nodes than '{template.path}'")
        results = dict(zip(template.nodes, self._nodes, strict=True))
        stamp = _Stamp(template, path, marker, self._names(template, path, marker, results))
        values = {value.name: value for value in template.values}
        storages = {**self._storages_of_inputs(template, stamp)}
        for operator, shared in zip(template.operators, template.shared, strict=True):
            made = [values[name] for name in _results(operator, values)]
            new = stamp.operator(operator, self._program.draws)
            self._stamped_operators.add(new.name)
            self._program.add(new, stamp.names_of(shared), [stamp.value(value) for value in made])
            for value in made:
                storage = template.storages[value.name]
                if storage not in storages:
                    storages[storage] = next(self._unused_storages)
                self._program.storage[stamp.name(value.name)] = storages[storage]
        self._program.checks += map(stamp.check, template.checks)
        self._program.draws += template.draws
        self._made[marker.call] = stamp.names_of(template.made)

    def out(self, name: str, call: int, position: int, storage: int) -> None:
        """A result of a stamped layer: the name of the marker stands for it."""
        value = self._made[call][position]
        self._program.alias(name, value)
        self._program.storage[value] = storage

    def layers(self) -> tuple[TracedLayer, ...]:
        """One of each kind of layers that others were stamped from."""
        layers = []
        for template in self._stamped.templates:
            region = self._regions[template.number]
            layers.append(
                TracedLayer(
                    region.path,
                    template.module,
                    template.form,
                    template.results,
                    template.modes,
                    region.begin.tensors,
                    region.made,
                    tuple(operator.name for operator in region.operators),
                    template.summary,
                )
            )
        return tuple(layers)

    def check(self) -> None:
        """Raises NotEqualAfterAll where a traced layer is not what would have been stamped."""
        for number, template_number in self._stamped.proof_of.items():
            template, region = self._regions[template_number], self._regions[number]
            path = region.path
            if len(template.operators) != len(region.operators):
                raise NotEqualAfterAll(f"'{path}' has other operators than '{template.path}'")
            pairs = zip(template.operators, region.operators, strict=True)
            results = {ours.name: theirs.name for ours, theirs in pairs}
            names = self._names(template, region.path, region.begin, results)
            stamp = _Stamp(template, region.path, region.begin, names)
            expected = [stamp.operator(o, region.first_draw) for o in template.operators]
            for ours, theirs in zip(expected, region.operators, strict=True):
                if ours != theirs:
                    raise NotEqualAfterAll(f"'{path}' has {theirs} where {ours} is expected")
            if _looks(map(stamp.value, template.values)) != _looks(region.values):
                raise NotEqualAfterAll(f"'{path}' makes other tensors than '{template.path}'")
            if tuple(map(stamp.check, template.checks)) != region.checks:
                raise NotEqualAfterAll(f"'{path}' chooses otherwise than '{template.path}'")
            if stamp.names_of(template.made) != region.made or template.draws != region.draws:
                raise NotEqualAfterAll(f"'{path}' returns or draws otherwise")
        self._check_other_calls()

    def _check_other_calls(self) -> None:
        """Raises NotEqualAfterAll where a module in a stamped layer is called outside of it, too.

        Calls of a module are numbered, and those in a stamped layer were not counted.
        """
        stamped = {self._stamped.paths[number] for number in self._stamped.template_of}
        for operator in self._program.operators:
            if operator.name in self._stamped_operators:
                continue
            for call in operator.calls:
                parts = call.module.split(".")
                if any(".".join(parts[:end]) in stamped for end in range(1, len(parts) + 1)):
                    raise NotEqualAfterAll(f"'{call.module}' is called outside of its layer")

    def _names(
        self, template: _Region, path: str, marker: Marker, results: Mapping[str, str]
    ) -> dict[str, str]:
        """Values of the template, to those of another call."""
        inside, theirs = f"{template.path}.", f"{path}."
        tensors = {
            value: self._tensors[theirs + fqn.removeprefix(inside)]
            for fqn, value in self._tensors.items()
            if fqn.startswith(inside)
        }
        given = dict(zip(template.begin.tensors, marker.tensors, strict=True))
        return {**tensors, **given, **results}

    def _check_template(self, template: _Region) -> None:
        """Raises NotEqualAfterAll for a layer that writes or holds what no other one may."""
        path, names = template.path, template.names
        if template.begin.call in self._with_nested:
            raise NotEqualAfterAll(f"'{path}' has a nested graph")
        roots = storage_roots(template.operators)
        calls = template.begin.calls
        for operator in template.operators:
            if any(roots.get(name, name) not in names for name in operator.writes):
                raise NotEqualAfterAll(f"'{path}' writes to what it did not make")
            if not self._constants.isdisjoint(operator.inputs):
                raise NotEqualAfterAll(f"'{path}' makes a constant")
            within = operator.calls[len(calls) :]
            if operator.calls[: len(calls) - 1] != calls[:-1] or not all(
                f"{inner.module}.".startswith(f"{path}.") for inner in within
            ):
                raise NotEqualAfterAll(f"'{path}' calls modules outside of it")
        if not names.issuperset(template.made):
            raise NotEqualAfterAll(f"'{path}' returns what it did not make")

    def _storages_of_inputs(self, template: _Region, stamp: "_Stamp") -> dict[int, int]:
        """Storages of what the template takes, to those of what the stamped layer takes."""
        storage = self._program.storage
        inputs = {name for o in template.operators for name in o.inputs} - template.names
        return {
            storage[name]: storage[stamp.name(name)]
            for name in (*inputs, *template.begin.tensors)
            if name in storage and stamp.name(name) in storage
        }

    def _path(self, marker: Marker) -> str:
        return f"'{self._stamped.paths[marker.call]}'"


@dataclass(frozen=True)
class _Stamp:
    """Renames a template to another call."""

    template: _Region
    path: str
    marker: Marker
    names: Mapping[str, str]

    def name(self, name: str) -> str:
        """A value's name; one tensor of a result that has several is named after that."""
        whole, bracket, index = name.partition("[")
        return self.names.get(name, self.names.get(whole, whole) + bracket + index)

    def names_of(self, names: Sequence[str]) -> tuple[str, ...]:
        """Several names."""
        return tuple(map(self.name, names))

    def operator(self, operator: Operator, draws: int) -> Operator:
        """An operator; `draws` counts the random draws before the layer."""
        offset = draws - self.template.first_draw
        around = len(self.marker.calls)
        return replace(
            operator,
            name=self.name(operator.name),
            args=self._argument(operator.args),
            kwargs=self._argument(operator.kwargs),
            inputs=tuple(dict.fromkeys(map(self.name, operator.inputs))),
            module=self._path(operator.module),
            writes=self.names_of(operator.writes),
            aliases=self.names_of(operator.aliases),
            gives_none=self.names_of(operator.gives_none),
            draws=tuple(draw + offset for draw in operator.draws),
            calls=(
                *self.marker.calls[: around - 1],
                *(replace(c, module=self._path(c.module)) for c in operator.calls[around - 1 :]),
            ),
        )

    def check(self, check: Check) -> Check:
        """A check of a choice by a value."""
        return replace(check, value=self.name(check.value))

    def value(self, value: Value) -> Value:
        """A value, for which it must be found out whether it needs a gradient."""
        return replace(value, name=self.name(value.name), needs_grad=False)

    def _argument(self, argument: Any) -> Any:
        if isinstance(argument, Ref):
            return Ref(self.name(argument.name))
        if isinstance(argument, tuple):
            return type(argument)(map(self._argument, argument))
        return argument

    def _path(self, path: str) -> str:
        """The path of a module in the layer."""
        return self.path + path.removeprefix(self.template.path)


def _results(operator: Operator, values: Mapping[str, Value]) -> list[str]:
    if operator.name in values:
        return [operator.name]
    return [name for name in values if name.startswith(f"{operator.name}[")]


def _looks(values: Any) -> list[Value]:
    return [replace(value, needs_grad=False) for value in values]
