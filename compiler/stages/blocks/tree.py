"""A cut graph -> its calls of modules: operators in order, grouped as the model makes them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from pipecut.compiler.graph import Graph, Literal, ModuleCall, Operator, Sym, storage_roots
from pipecut.compiler.operators.lookup import rule_of
from pipecut.compiler.stages.blocks.block import (
    ASKED_FOR,
    CHECKS,
    OUTPUTS,
    Block,
    HandOut,
    Item,
    SizedBy,
)
from pipecut.compiler.stages.blocks.casts import changes_nothing, without_casts
from pipecut.compiler.stages.blocks.drops import dropped
from pipecut.compiler.stages.blocks.held import Held
from pipecut.compiler.stages.cut import Cut


def blocks(graph: Graph, cut: Cut, returned: Sequence[str], outputs: bool = True) -> Block:
    """The model's own call, with what a stage has of it; with `outputs` also of its results.

    Operators stay in their order. A module's operators that lie apart are calls of their own; those
    of a module outside its caller stay with the caller.
    """
    return _Builder(graph, cut, returned, outputs).root()


@dataclass(frozen=True)
class _Placed:
    """An operator, its position on the stage, and the calls of modules that it is written in."""

    position: int
    operator: Operator
    path: tuple[ModuleCall, ...]


def _path(operator: Operator) -> tuple[ModuleCall, ...]:
    """The calls around an operator, each of a module within the one before."""
    calls = operator.calls or (
        ModuleCall("", ""),
        ModuleCall(operator.module, operator.module_class),
    )
    path = [calls[0]]
    opaque = operator.opaque.module if operator.opaque is not None else None
    for call in calls[1:]:
        around = path[-1].module
        # An opaque module is called in the body of one that holds it.
        if opaque is not None and not opaque.startswith(f"{call.module}."):
            break
        if call.module and (not around or call.module.startswith(f"{around}.")):
            path.append(call)
    return tuple(path)


def _same_call(call: ModuleCall) -> tuple[str, int]:
    return call.module, call.number


class _Builder:
    def __init__(self, graph: Graph, cut: Cut, returned: Sequence[str], outputs: bool) -> None:
        self.graph, self.cut = graph, cut
        self.held = Held(cut)
        whole = without_casts(graph, [graph.operators[index] for index in cut.operators])
        self.returned = tuple(whole.same.get(name, name) for name in returned)
        self.indices_of_cut = set(cut.operators)
        self.indices = [cut.operators[at] for at in whole.kept]
        self.placed = [
            _Placed(position, operator, _path(operator))
            for position, operator in enumerate(whole.operators)
        ]
        self.roots = storage_roots(p.operator for p in self.placed)
        self.made_at = {p.operator.name: p.position for p in self.placed}
        self.last_use = {name: p.position for p in self.placed for name in p.operator.inputs}
        self.last_use |= dict.fromkeys(self.returned, len(self.placed))
        # By what a caller may ask for: values to their names.
        self.handed_out = {
            OUTPUTS: _output_names(cut, whole.same) if outputs else {},
            CHECKS: {whole.same.get(c.value, c.value): [c.value] for c in cut.checks},
        }
        self.hand_out_depth = {
            p.operator.name: _hand_out_depth(p.path)
            for p in self.placed
            if any(p.operator.name in names for names in self.handed_out.values())
        }

    def root(self) -> Block:
        """The whole stage: its inputs and results are those of the cut."""
        body = self._items(self.placed, 0, ())
        first = next((p.path[0] for p in self.placed), ModuleCall("", ""))
        inputs = (*self.cut.receives, *self.cut.batch_inputs)
        refers_to = _refers_to(body, ())
        return Block(
            (first,),
            body,
            inputs,
            self.returned,
            needs=tuple(into for into, names in self.handed_out.items() if names),
            detached=frozenset(n for n in self.returned if self.graph.values[n].gradient_ends),
            drops=dropped(
                self.graph, body, self.returned, self.roots, self._made(0, len(self.placed))
            ),
            sized_by=self._sized_by(inputs),
            device_of=next((name for name in inputs if name in self.graph.values), ""),
            refers_to=refers_to,
        )

    def _items(
        self, placed: Sequence[_Placed], depth: int, contexts: tuple[str, ...]
    ) -> tuple[Item, ...]:
        """The body of a call that stands at a depth of its operators' paths."""
        items: list[Item] = []

        def inner_call(p: _Placed) -> tuple[str, int]:
            return _same_call(p.path[depth + 1]) if len(p.path) > depth + 1 else ("", p.position)

        for _, group in groupby(placed, key=inner_call):
            run = list(group)
            if len(run[0].path) == depth + 1 or self._is_function(run):
                items.append(run[0].operator)
            else:
                items.append(self._block(run, depth + 1))
            for p in run:
                if self.hand_out_depth.get(p.operator.name) == depth:
                    items += self._hand_outs(p.operator.name)
        return tuple(items)

    def _hand_outs(self, value: str) -> list[HandOut]:
        return [
            HandOut(value, tuple(names_of[value]), into)
            for into, names_of in self.handed_out.items()
            if value in names_of
        ]

    def _is_function(self, run: Sequence[_Placed]) -> bool:
        """Whether a call is one operator on what it is given: `F.silu(x)`, but not dropout."""
        operator = run[0].operator
        return (
            len(run) == 1
            and not any(name in self.held for name in operator.inputs)
            and not (rule_of(operator.target).drops and operator.modes)
        )

    def _block(self, run: Sequence[_Placed], depth: int) -> Block:
        start, end = run[0].position, run[-1].position + 1
        path = run[0].path[: depth + 1]
        module = path[-1].module
        contexts = _common_prefix([p.operator.contexts for p in run])
        body = self._items(run, depth, contexts)
        inputs = tuple(
            dict.fromkeys(
                name
                for p in run
                for name in p.operator.inputs
                if self.made_at.get(name, -1) < start and self.held.within(module, name) is None
            )
        )
        results = tuple(
            p.operator.name
            for p in run
            if self.last_use.get(p.operator.name, -1) >= end
            or self.hand_out_depth.get(p.operator.name, depth) < depth
        )
        refers_to = _refers_to(body, contexts)
        sized_by = self._sized_by(inputs)
        device_of = next(
            (name for name in inputs if name in self.graph.values and name not in self.held), ""
        )
        known = {size.size for size in sized_by} | ({"device"} if device_of else set())
        return Block(
            path,
            body,
            inputs,
            results,
            needs=_in_order(refers_to - known),
            contexts=contexts,
            drops=dropped(self.graph, body, results, self.roots, self._made(start, end)),
            part=self._part(start, end, depth, path),
            sized_by=sized_by,
            device_of=device_of,
            refers_to=refers_to,
        )

    def _made(self, start: int, end: int) -> set[str]:
        return {p.operator.name for p in self.placed[start:end]}

    def _sized_by(self, inputs: Sequence[str]) -> tuple[SizedBy, ...]:
        """For each size the first input with a dimension of that size itself."""
        shapes = {
            name: self.graph.values[name].shape for name in inputs if name in self.graph.values
        }
        return tuple(
            next(
                SizedBy(size, name, shape.index(size))
                for name, shape in shapes.items()
                if size in shape
            )
            for size in self.graph.symbols
            if any(size in shape for shape in shapes.values())
        )

    def _part(self, start: int, end: int, depth: int, path: tuple[ModuleCall, ...]) -> str:
        """Which part of a call the operators are: the call's others come just before or after."""

        def belongs(index: int, step: int) -> bool:
            operators = self.graph.operators
            while 0 <= index < len(operators) and (
                index in self.indices_of_cut or changes_nothing(self.graph, operators[index])
            ):
                index += step
            if not 0 <= index < len(operators):
                return False
            calls = _path(operators[index])
            return len(calls) > depth and list(map(_same_call, calls[: depth + 1])) == here

        here = list(map(_same_call, path))
        indices = self.indices[start:end]
        before, after = belongs(indices[0] - 1, -1), belongs(indices[-1] + 1, 1)
        if before or after:
            return "Middle" if before and after else "End" if before else "Start"
        # Operators in between may be missing.
        between = set(range(indices[0], indices[-1] + 1)) - self.indices_of_cut
        return "Part" if between else ""


def _in_order(needs: Iterable[str]) -> tuple[str, ...]:
    """What a caller gives, then what it may ask for, which has a default."""
    return tuple(sorted(needs, key=lambda need: (need in ASKED_FOR, need)))


def _output_names(cut: Cut, same: Mapping[str, str]) -> Mapping[str, Sequence[str]]:
    """Values that the model returns, to its names for each."""
    names: dict[str, list[str]] = defaultdict(list)
    for output in cut.outputs:
        names[same.get(output.value, output.value)].append(output.name)
    return names


def _hand_out_depth(path: tuple[ModuleCall, ...]) -> int:
    """The depth of the call that hands a value out: the one around all layers, which are alike."""
    for depth, (around, call) in enumerate(zip(path, path[1:], strict=False)):
        within = call.module.removeprefix(around.module)
        if any(part.isdigit() for part in within.split(".")):
            return depth
    return max(len(path) - 2, 0)


def _common_prefix(contexts: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    shortest, longest = min(contexts), max(contexts)
    length = 0
    while length < min(len(shortest), len(longest)) and shortest[length] == longest[length]:
        length += 1
    return shortest[:length]


def _refers_to(body: Sequence[Item], contexts: tuple[str, ...]) -> frozenset[str]:
    """Which sizes, and whether `device`, `outputs` and `checks`, a body's own code names."""
    names = set()
    for item in body:
        if isinstance(item, HandOut):
            names.add(item.into)
            continue
        inner = item.contexts[len(contexts) :]
        codes = list(inner)
        if isinstance(item, Block):
            names.update(item.needs)
        else:
            arguments = _arguments(item)
            codes += [argument.code for argument in arguments if isinstance(argument, Literal)]
            for argument in arguments:
                if isinstance(argument, Sym):
                    names.update(argument.symbols)
        if any(code == "device" or "device.type" in code for code in codes):
            names.add("device")
    return frozenset(names)


def _arguments(operator: Operator) -> list[object]:
    """All arguments, also those within tuples."""
    arguments: list[object] = []
    waiting: list[object] = [operator.args, operator.kwargs, operator.modes]
    while waiting:
        value = waiting.pop()
        if isinstance(value, tuple):
            waiting += value
        else:
            arguments.append(value)
    return arguments
