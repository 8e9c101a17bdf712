"""A block -> the lines of its method."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipecut.compiler.graph import Graph, Operator, Ref
from pipecut.compiler.operators.table import GETITEM
from pipecut.compiler.stages.blocks.block import Block, HandOut, made_by, used_by
from pipecut.compiler.stages.blocks.held import access
from pipecut.compiler.stages.blocks.hints import Hints
from pipecut.compiler.stages.blocks.layers import Run, run_at
from pipecut.compiler.stages.blocks.nesting import Nested, Waiting
from pipecut.compiler.stages.blocks.scope import Scope
from pipecut.compiler.stages.call import write_call

INDENT = "        "
FORWARD, EVALUATION = "forward", "forward_in_evaluation"


@dataclass(frozen=True)
class Methods:
    """The method that each block is written as, and the code of each module's constructor."""

    names: Mapping[int, str]
    built: Mapping[str, str]
    members: Mapping[str, tuple[str, ...]]

    def of(self, block: Block) -> str:
        """The name of a block's method."""
        return self.names[id(block)]

    def alike(self, left: Block, right: Block) -> bool:
        """Whether two calls are of modules of one class and do the same."""
        same_class = self.built.get(left.module) == self.built.get(right.module)
        return same_class and self.of(left) == self.of(right)


def called(block: Block, inner: Block, method: str, names: Callable[[str], str]) -> str:
    """The call of a module within a body: `self.mlp(hidden_states)`."""
    relative = inner.module.removeprefix(block.module).removeprefix(".")
    return call_of(access(relative.split(".")), inner, method, names)


def call_of(module: str, inner: Block, method: str, names: Callable[[str], str]) -> str:
    """The call of what stands for a module."""
    given = ", ".join([*map(names, inner.inputs), *inner.needs])
    return f"{module}{'' if method == FORWARD else f'.{method}'}({given})"


def structure(block: Block, scope: Scope, methods: Mapping[int, str]) -> str:
    """The body with numbered variables: equal where two blocks do the same."""
    sized_by = [f"{by.size} {scope[by.value]} {by.dimension}" for by in block.sized_by]
    lines = [f"{block.part} {sized_by} {block.needs} {[scope[name] for name in block.inputs]}"]
    for item, drops in zip(block.body, block.drops, strict=True):
        if isinstance(item, HandOut):
            lines.append(f"{item.into} {scope[item.value]} {item.names}")
            continue
        if isinstance(item, Block):
            code = called(block, item, methods[id(item)], scope.__getitem__)
        else:
            code = write_call(item, scope.__getitem__)
        made = ", ".join(scope[name] for name in made_by(item))
        contexts = item.contexts[len(block.contexts) :]
        lines.append(f"{contexts} {made} = {code} {[scope[name] for name in drops]}")
    lines.append(f"return {[scope[name] for name in block.results]}")
    lines += [f"detached {scope[name]}" for name in block.results if name in block.detached]
    return "\n".join(lines)


class Body:
    """The lines of a block's items, one after the other, with readable names."""

    def __init__(
        self, graph: Graph, block: Block, scope: Scope, hints: Hints, methods: Methods
    ) -> None:
        self.graph, self.block, self.scope = graph, block, scope
        self.hints, self.methods = hints, methods
        self.uses = Counter(name for item in block.body for name in used_by(item))
        self.uses.update(block.results)
        self.handed_out = {item.value for item in block.body if isinstance(item, HandOut)}
        self.waiting = Waiting()
        # What each variable holds.
        self.holds = {scope[name]: name for name in block.inputs if name in scope.names}
        self.lines: list[str] = []
        self.contexts: tuple[str, ...] = ()
        at = 0
        while at < len(block.body):
            at = self._add(at)
        self._return()

    def _add(self, at: int) -> int:
        """Write the item at a position, with those that go with it. Returns the next position."""
        body = self.block.body
        item = body[at]
        if isinstance(item, HandOut):
            self._hand_out(item)
            return at + 1
        run = run_at(self.block, at, self.methods.alike, self.scope)
        if run is not None:
            self._loop(run)
            return run.end
        parts = self._parts(at)
        made = [part.name for part in parts] or [n for n in made_by(item) if self.uses[n]]
        contexts = item.contexts[len(self.block.contexts) :]
        targets = ", ".join(self.scope[name] for name in made)
        if len(parts) == 1:
            # A list of one, taken apart.
            targets = f"({targets},)"
        code = self._nested(lambda: self._code(item), contexts, len(targets))
        last = at == len(body) - 1 and self.block.results == tuple(made)
        if len(made) == 1 and not parts and (last or self._nestable(made[0])):
            self.waiting.calls.append(Nested(made[0], code, contexts))
        else:
            self._flush()
            self._write(f"{targets} = {code}" if targets else code, contexts)
            self._bind(made)
        end = at + 1 + len(parts)
        self._drop([name for drops in self.block.drops[at:end] for name in drops], end)
        return end

    def _nestable(self, value: str) -> bool:
        """Whether the one line that uses a value may compute it: it has no name of the model's."""
        if self.uses[value] != 1 or value in self.handed_out:
            return False
        return self.hints.assigned(value, self.block.path[-1]) != self.scope[value]

    def _code(self, item: Operator | Block) -> str:
        def name(value: str) -> str:
            return self.waiting.token(value) or self.scope[value]

        if isinstance(item, Block):
            return called(self.block, item, self.methods.of(item), name)
        return write_call(item, name)

    def _nested(self, code: Callable[[], str], contexts: tuple[str, ...], before: int = 0) -> str:
        """Code with the waiting calls that it uses, or after them where that cannot be."""
        nested = self.waiting.nest(code(), contexts, before)
        if nested is None:
            self._flush()
            return code()
        return nested

    def _flush(self) -> None:
        """Give each waiting call a line of its own."""
        waiting, self.waiting.calls = self.waiting.calls, []
        for call in waiting:
            self._write(f"{self.scope[call.value]} = {call.code}", call.contexts)
            self._bind([call.value])

    def _write(self, line: str, contexts: tuple[str, ...] = ()) -> None:
        if contexts != self.contexts and contexts:
            self.lines.append(f"{INDENT}with {', '.join(contexts)}:")
        self.contexts = contexts
        self.lines.append(f"{INDENT}{'    ' if contexts else ''}{line}")

    def _bind(self, values: Iterable[str]) -> None:
        self.holds |= {self.scope[value]: value for value in values}

    def _parts(self, at: int) -> list[Operator]:
        """The operators that take all of a result apart, where they follow it."""
        item, body = self.block.body[at], self.block.body
        if not isinstance(item, Operator) or item.name in self.graph.values:
            return []
        count = self.uses[item.name]
        parts = [part for part in body[at + 1 : at + 1 + count] if isinstance(part, Operator)]
        taken = [(part.target, part.args) for part in parts]
        whole = [(GETITEM, (Ref(item.name), number)) for number in range(count)]
        tensors = self.graph.results_of(item)
        return parts if count and taken == whole and count == len(tensors) else []

    def _drop(self, values: Sequence[str], following: int) -> None:
        """Delete variables, unless the next item takes their names or something waits for them."""
        body = self.block.body
        renamed = (
            {self.scope[name] for name in made_by(body[following])}
            if following < len(body)
            else set()
        )
        names = [
            self.scope[value] for value in values if self.holds.get(self.scope[value]) == value
        ]
        deleted = [name for name in names if name not in renamed]
        if deleted and not self.waiting.calls:
            self._write(f"del {', '.join(deleted)}")
            for name in deleted:
                del self.holds[name]

    def _loop(self, run: Run) -> None:
        """Layers in a row that do the same, each given what the one before gave."""
        self._flush()
        layers = [item for item in self.block.body[run.start : run.end] if isinstance(item, Block)]
        first, last = layers[0], layers[-1]
        results = [self.scope[name] for name in last.results]
        given = {name: self.scope[name] for name in first.inputs}
        self._begin(run, first.inputs, results, given)
        relative = run.container.removeprefix(self.block.module).strip(".")
        container = access(relative.split(".") if relative else ())
        numbers = [int(block.module.rpartition(".")[2]) for block in layers]
        whole = self.methods.members.get(run.container) == tuple(map(str, numbers))
        name = self._free("layer" if whole else "index")
        each = container if whole else f"range({numbers[0]}, {numbers[-1] + 1})"
        self._write(f"for {name} in {each}:")
        layer = name if whole else f"{container}[{name}]"
        call = call_of(layer, first, self.methods.of(first), given.__getitem__)
        assigned = f"{', '.join(results)} = " if results else ""
        self.lines.append(f"{INDENT}    {assigned}{call}")
        self._bind(last.results)
        self._drop(self.block.drops[run.end - 1], run.end)

    def _begin(
        self, run: Run, inputs: Sequence[str], results: Sequence[str], given: dict[str, str]
    ) -> None:
        """Put the first layer's inputs into the variables of the results that the others take.

        In one statement, since one may be in the variable that another is to have.
        """
        taken = {inputs[position]: results[result] for position, result in run.carried.items()}
        moved = [value for value, name in taken.items() if given[value] != name]
        if moved:
            names, values = [taken[value] for value in moved], [given[value] for value in moved]
            self._write(f"{', '.join(names)} = {', '.join(values)}")
            gone = [v for v in moved if v in self.block.drops[run.start]]
            self._drop([v for v in gone if given[v] not in results], run.end)
        given |= taken

    def _free(self, name: str) -> str:
        while name in self.scope.names.values():
            name += "_"
        return name

    def _hand_out(self, item: HandOut) -> None:
        """Keep a value where the caller asks for it."""
        self._flush()
        items = ", ".join(f"{name!r}: {self.scope[item.value]}" for name in item.names)
        self._write(f"if {item.into} is not None:")
        self.lines.append(f"{INDENT}    {item.into} |= {{{items}}}")

    def _returned(self, value: str) -> str:
        code = self.waiting.token(value) or self.scope[value]
        return f"{code}.detach()" if value in self.block.detached else code

    def _return(self) -> None:
        results = self.block.results

        def code() -> str:
            values = [self._returned(name) for name in results]
            whole = not self.block.module
            return ", ".join(values) if len(values) != 1 or not whole else f"{values[0]},"

        if not results and self.block.module:
            self._flush()
            return
        if self.block.detached:
            self._flush()
        returned = self._nested(lambda: f"({code()})" if not self.block.module else code(), ())
        self._flush()
        self._write(f"return {returned}")
