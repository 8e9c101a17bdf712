"""What the model's source calls values: the variables that its statements assign."""

import re
from collections.abc import Iterator, Sequence

from pipecut.compiler.graph import Graph, ModuleCall, Operator
from pipecut.compiler.names import identifier, is_number
from pipecut.compiler.operators.lookup import short_name
from pipecut.compiler.stages.blocks.block import Block
from pipecut.compiler.stages.cut import Cut

# What a source calls a result that it does not use.
UNUSED = "_"
# So many operators before and after one on another stage tell what its statement assigns.
AROUND = 8


class Hints:
    """Names for values, as the modules that make and take them have them.

    An operator is in one statement of each call around it. Of a statement's operators, those whose
    results are used beyond it have, in order, the names that it assigns.
    """

    def __init__(self, graph: Graph, cut: Cut, returned: Sequence[str]) -> None:
        self.held = {p.value: p.names[0].rpartition(".")[2] for p in graph.parameters}
        self.held |= {b.value: b.names[0].rpartition(".")[2] for b in graph.buffers}
        self.given = self.held | graph.batch_names()
        self.operators = {operator.name: operator for operator in graph.operators}
        # By result, its name in the statement of each call around it that has one.
        self.named: dict[str, dict[Key, str]] = {}
        here = [graph.operators[index] for index in cut.operators]
        self.last_use = {
            name: index
            for index, operator in zip(cut.operators, here, strict=True)
            for name in operator.inputs
        }
        self.last_use |= dict.fromkeys(returned, len(graph.operators))
        self.graph = graph
        # The last operator of each call, whose result is what the module returns.
        self.ending: dict[Key, list[str]] = {}
        self._read(list(zip(cut.operators, here, strict=True)), 0)
        self._read_received(cut)

    def _read_received(self, cut: Cut) -> None:
        """Names of what comes from other stages, from the operators around those that make it."""
        producers = self.graph.producers() if cut.receives else {}
        self.last_use |= dict.fromkeys(cut.receives, len(self.graph.operators))
        near = {
            index
            for name in cut.receives
            for index in range(producers[name] - AROUND, producers[name] + AROUND)
        }
        indices = sorted(near & set(range(len(self.graph.operators))) - set(cut.operators))
        self._read([(index, self.graph.operators[index]) for index in indices], 0)

    def _read(self, operators: Sequence[tuple[int, Operator]], depth: int) -> None:
        """Names in the statements of the calls at a depth; operators with their indices.

        What a statement assigns is not there yet where it goes on after them.
        """
        for run in _statements(operators, depth):
            self._read(run, depth + 1)
            self._end(run[-1][0], depth)
            end, last = run[-1]
            call = last.calls[depth]
            following = self.graph.operators[end + 1 : end + 2]
            if not any(_same_statement(last, operator, depth) for operator in following):
                results = [o for _, o in run if self.last_use.get(o.name, -1) > end]
                if len(results) <= len(call.targets):
                    self._assign(results, call, depth)

    def _end(self, index: int, depth: int) -> None:
        operator, following = (
            self.graph.operators[index],
            self.graph.operators[index + 1 : index + 2],
        )
        key = key_of(operator.calls[depth])
        if not any(key in map(key_of, after.calls) for after in following):
            self.ending.setdefault(key, []).append(operator.name)

    def _assign(self, results: Sequence[Operator], call: ModuleCall, depth: int) -> None:
        """Give results the names that a statement assigns.

        What a module within returns stands in an order of its own: several are told by their names
        there.
        """
        targets = list(call.targets)
        if len(targets) == 1 or not any(len(o.calls) > depth + 1 for o in results):
            for operator, target in zip(results, targets, strict=False):
                self._name(operator, call, target)
            return
        left = []
        for operator in results:
            inner = list(self.named.get(operator.name, {}).values())
            alike = [t for t in targets if t in inner]
            alike += [t for t in targets if any(t.endswith(name) for name in inner)]
            if alike:
                targets.remove(alike[0])
                self._name(operator, call, alike[0])
            else:
                left.append(operator)
        if len(left) == 1 and targets:
            self._name(left[0], call, targets[0])

    def _name(self, operator: Operator, call: ModuleCall, target: str) -> None:
        if target != UNUSED:
            self.named.setdefault(operator.name, {})[key_of(call)] = identifier(target)

    def assigned(self, value: str, call: ModuleCall) -> str | None:
        """The variable that a statement of a call assigns to a value; None where none does."""
        return self.named.get(value, {}).get(key_of(call))

    def of(self, value: str, path: Sequence[ModuleCall]) -> str:
        """The name for a value in the body of a call, or what its operator is called."""
        if value in self.given:
            return identifier(self.given[value])
        operator = self.operators[value]
        keys, around = list(map(key_of, operator.calls)), set(map(key_of, path))
        common = max((at for at, key in enumerate(keys) if key in around), default=0)
        names = self.named.get(value, {})
        known = [names[key] for key in keys[common:] if key in names]
        if known:
            return known[0]
        within = operator.calls[common + 1 :]
        whole = bool(within) and value in self.ending.get(key_of(within[0]), ())
        return _plain_name(operator, within if whole else ())

    def of_input(self, value: str, block: Block) -> str:
        """The name for what a block is given: as its forward names it, where that is known."""
        hint, takes = self.of(value, block.path), block.path[-1].takes
        known = value in self.given or value in self.named
        first = value == block.inputs[0] and block.part in ("", "Start")
        if first and takes and value not in self.held and not (known and hint in takes):
            return identifier(takes[0])
        return hint


Key = tuple[str, int]


def key_of(call: ModuleCall) -> Key:
    """What tells a call from all others of the model."""
    return call.module, call.number


def _statements(
    operators: Sequence[tuple[int, Operator]], depth: int
) -> Iterator[list[tuple[int, Operator]]]:
    """Operators in runs of one statement; a statement in a loop is a run for each layer."""
    run: list[tuple[int, Operator]] = []
    # The calls in a run, by their modules' names without numbers.
    inner: dict[str, Key] = {}
    for position, operator in operators:
        if len(operator.calls) <= depth:
            continue
        within = operator.calls[depth + 1] if len(operator.calls) > depth + 1 else None
        if run:
            alike = _same_statement(run[-1][1], operator, depth)
            again = within and inner.get(_masked(within), key_of(within)) != key_of(within)
            if not alike or again:
                yield run
                run, inner = [], {}
        run.append((position, operator))
        if within:
            inner[_masked(within)] = key_of(within)
    if run:
        yield run


def _same_statement(left: Operator, right: Operator, depth: int) -> bool:
    """Whether two operators are of one statement of the call at a depth."""
    if min(len(left.calls), len(right.calls)) <= depth:
        return False
    one, other = left.calls[depth], right.calls[depth]
    if (key_of(one), one.line) != (key_of(other), other.line):
        return False
    inner = [o.calls[depth + 1] for o in (left, right) if len(o.calls) > depth + 1]
    # Another layer of a loop.
    return (
        len(inner) < 2
        or _masked(inner[0]) != _masked(inner[1])
        or len(set(map(key_of, inner))) == 1
    )


def _masked(call: ModuleCall) -> str:
    return re.sub(r"\d+", "*", call.module)


def _plain_name(operator: Operator, within: Sequence[ModuleCall]) -> str:
    """What a value is called without a variable: as its module, or `view` of aten.view.default."""
    named = [part for call in within[:1] for part in call.module.split(".") if not is_number(part)]
    if named:
        return identifier(named[-1])
    name = short_name(operator.target) if "." in operator.target else "part"
    # A class's name stands for the class in stage code.
    name = name.rpartition(".")[2].lower() if ":" in operator.target else name
    return identifier(name.strip("_") or operator.name)
