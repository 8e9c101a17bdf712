"""The modules of a stage: which tensors and modules each holds, and which calls are made of it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pipecut.compiler.graph import Graph, Parameter
from pipecut.compiler.stages.blocks.block import Block
from pipecut.compiler.stages.blocks.body import EVALUATION, FORWARD, structure
from pipecut.compiler.stages.blocks.held import Held
from pipecut.compiler.stages.blocks.hints import Hints
from pipecut.compiler.stages.blocks.scope import neutral
from pipecut.compiler.stages.cut import Cut


@dataclass(frozen=True)
class Method:
    """What a module does: a call of it, in the graph of training or of eval mode.

    `structure` is the same text for calls that do the same.
    """

    block: Block
    graph: Graph
    hints: Hints
    structure: str


@dataclass
class Module:
    """One module by its FQN, with what it holds and does."""

    name: str
    members: dict[str, "Module"] = field(default_factory=dict)
    parameters: dict[str, Parameter] = field(default_factory=dict)
    methods: dict[str, Method] = field(default_factory=dict)

    def find(self, name: str) -> "Module":
        """The module at an FQN below this one, made where it is not there yet."""
        module = self
        for part in name.split(".") if name else ():
            inner = f"{module.name}.{part}" if module.name else part
            module = module.members.setdefault(part, Module(inner))
        return module

    def all(self) -> Iterator["Module"]:
        """Modules below, each before those that hold it, itself last."""
        for member in self.members.values():
            yield from member.all()
        yield self


@dataclass(frozen=True)
class Tie:
    """A name of a parameter, and another one that it has, too."""

    name: str
    other: str


class Modules:
    """All modules of a stage by what they do. `names` has each call's method, by the call's id."""

    def __init__(self, held: Held) -> None:
        self.held, self.root = held, Module("")
        self.names: dict[int, str] = {}
        # FQNs of what modules hold: a method of that name would hide it, or be hidden.
        self._members: set[str] = set()
        self._note_members(name for names in held.names.values() for name in names)

    def add(self, graph: Graph, block: Block, hints: Hints, name: str) -> None:
        """Add what the model's own call does, as a method of a name, and all calls within it."""
        self._note_members(call.module for call in block.calls())
        for item in block.body:
            if isinstance(item, Block):
                self._add_inner(graph, item, hints, EVALUATION if name == EVALUATION else FORWARD)
        self._put(Method(block, graph, hints, self._structure(block)), name)

    def _note_members(self, names: Iterable[str]) -> None:
        for name in names:
            while name and name not in self._members:
                self._members.add(name)
                name = name.rpartition(".")[0]

    def _add_inner(self, graph: Graph, block: Block, hints: Hints, wanted: str) -> None:
        for item in block.body:
            if isinstance(item, Block):
                self._add_inner(graph, item, hints, wanted)
        method = Method(block, graph, hints, self._structure(block))
        methods = self.root.find(block.module).methods
        inside = f"{block.module}." if block.module else ""
        same = (name for name, other in methods.items() if other.structure == method.structure)
        name = next(same, None) or (wanted if methods else FORWARD)
        number = 1
        free = name
        while inside + free in self._members or (
            free in methods and methods[free].structure != method.structure
        ):
            number += 1
            free = f"{name}_{number}"
        self._put(method, free)

    def _put(self, method: Method, name: str) -> None:
        self.names[id(method.block)] = name
        self.root.find(method.block.module).methods.setdefault(name, method)

    def _structure(self, block: Block) -> str:
        return structure(block, neutral(block, self.held), self.names)

    def structure(self) -> str:
        """All that the modules do: equal for two modes that do the same."""
        return "\n".join(
            f"{module.name}.{name}\n{method.structure}"
            for module in self.root.all()
            for name, method in module.methods.items()
        )


def parameters_into(root: Module, cut: Cut) -> list[Tie]:
    """Put parameters where they are made: into modules that are called, or where they are named.

    Opaque modules hold theirs. Returns what is tied afterwards. What holds a further name, a buffer
    or an opaque module is made, too.
    """
    called = {module.name for module in root.all() if module.methods}
    ties = []
    for parameter in cut.parameters:
        own = [name for name in parameter.names if is_within(name, cut.opaque)]
        others = [name for name in parameter.names if name not in own]
        inside = [name for name in others if name.rpartition(".")[0] in called]
        made = inside or (own or others)[:1]
        for name in made:
            if name not in own:
                owner, _, last = name.rpartition(".")
                root.find(owner).parameters[last] = parameter
        ties += [Tie(made[0], name) for name in parameter.names if name != made[0]]
    names = [name for parameter in cut.parameters for name in parameter.names]
    for name in (*names, *(name for buffer in cut.buffers for name in buffer.names)):
        if not is_within(name, cut.opaque):
            root.find(name.rpartition(".")[0])
    for name in cut.opaque:
        root.find(name.rpartition(".")[0])
    return ties


def is_within(name: str, modules: Iterable[str]) -> bool:
    """Whether a parameter, buffer or module is in one of some modules, by their FQNs."""
    return any(name.startswith(f"{module}.") for module in modules)
