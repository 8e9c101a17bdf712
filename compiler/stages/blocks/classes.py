"""The modules of a stage -> a class for each that does something of its own."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from pipecut.compiler.graph import Operator, Parameter
from pipecut.compiler.names import identifier, in_comment, is_number, quoted
from pipecut.compiler.stages.blocks.block import ASKED_FOR, Block
from pipecut.compiler.stages.blocks.body import INDENT, Body, Methods
from pipecut.compiler.stages.blocks.held import Held, is_plain
from pipecut.compiler.stages.blocks.modules import Method, Module
from pipecut.compiler.stages.blocks.scope import readable
from pipecut.compiler.stages.blocks.torch_modules import torch_module

# What a stage file uses itself.
TAKEN = ("Group", "Path", "allocate", "tie", "put", "load_file", "nn", "torch", "F")


@dataclass
class Classes:
    """The classes of a stage file, in the order in which they are written.

    `dtype` is that of all parameters, "" where they differ and each says its own.
    """

    held: Held
    methods: Methods
    dtype: str
    stage: str
    built: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    _names: dict[Hashable, str] = field(default_factory=dict)

    def add(self, module: Module) -> None:
        """Write the class of a module whose members have theirs, unless one like it is written."""
        self.built[module.name] = self._constructed(module)

    def _constructed(self, module: Module) -> str:
        """The code that makes a module: `nn.Linear(8, 8)`, `Block()`, `Group({...})`."""
        if not module.methods:
            parameters = {name: self._parameter(p) for name, p in module.parameters.items()}
            members = {name: self.built[member.name] for name, member in module.members.items()}
            held = members | parameters
            return f"Group({_dictionary(held)})" if held else "Group()"
        torchs_own = torch_module(module, self._dtype_of(module))
        if torchs_own is not None:
            return torchs_own
        first = next(iter(module.methods.values())).block
        constructor = tuple(self.constructor(module))
        does = tuple((name, method.structure) for name, method in module.methods.items())
        key = first.class_name, constructor, does
        if key not in self._names:
            name = self._free(identifier(first.class_name))
            self._names[key] = name
            base = "Group" if _numbered(module) else "nn.Module"
            self.lines += ["", "", f"class {name}({base}):", *_part_lines(first), *constructor]
            for position, (method, what) in enumerate(module.methods.items()):
                self.lines += [""] if position or constructor else []
                self.lines += self.method(method, what)
        return f"{self._names[key]}()"

    def _free(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in TAKEN or name == self.stage or name in self._names.values():
            number += 1
            name = f"{wanted}{number}"
        return name

    @staticmethod
    def numbered(module: Module) -> dict[str, Module]:
        """A module's members whose names are numbers."""
        return _numbered(module)

    def constructor(
        self, module: Module, arguments: str = "self", on_meta: bool = False
    ) -> list[str]:
        """`__init__`; nothing where a module holds nothing."""
        lines = [*self.held_by(module)]
        numbered = _numbered(module)
        if not lines and not numbered:
            return []
        members = _dictionary({n: self.built[m.name] for n, m in numbered.items()})
        start = f"super().__init__({members})" if numbered else "super().__init__()"
        head = f"    def __init__({arguments}):"
        if not on_meta:
            return [head, f"{INDENT}{start}", *lines]
        within = [f'{INDENT}with torch.device("meta"):', *(f"    {line}" for line in lines)]
        if numbered:
            return [head, within[0], f"{INDENT}    {start}", *within[1:]]
        return [head, f"{INDENT}{start}", *within]

    def held_by(self, module: Module) -> Iterator[str]:
        """The lines that make a module's parameters and members."""
        for name, parameter in module.parameters.items():
            yield _assigned(name, self._parameter(parameter))
        for name, member in module.members.items():
            if not is_number(name):
                yield _assigned(name, self.built[member.name])

    def _parameter(self, parameter: Parameter) -> str:
        shape = ", ".join(map(str, parameter.shape)) or "()"
        dtype = "" if self.dtype else f", dtype=torch.{parameter.dtype}"
        frozen = "" if parameter.trainable else ", requires_grad=False"
        return f"nn.Parameter(torch.empty({shape}{dtype}){frozen})"

    def _dtype_of(self, module: Module) -> str:
        dtypes = {parameter.dtype for parameter in module.parameters.values()}
        return "" if self.dtype or len(dtypes) != 1 else f", dtype=torch.{dtypes.pop()}"

    def method(self, name: str, method: Method, prelude: Sequence[str] = ()) -> list[str]:
        """A method: its head, the sizes that it reads off its inputs, and its lines."""
        block = method.block
        scope = readable(block, self.held, method.hints)
        needs = [f"{need}=None" if need in ASKED_FOR else need for need in block.needs]
        arguments = ", ".join(["self", *(scope[value] for value in block.inputs), *needs])
        lines = [f"    def {name}({arguments}):"]
        source = _source(block)
        lines += [f"{INDENT}# {in_comment(source)}"] if source else []
        if "device" in block.refers_to and "device" not in block.needs:
            code = scope[block.device_of] if block.device_of else "next(self.parameters())"
            lines.append(f"{INDENT}device = {code}.device")
        for size in block.sized_by:
            if size.size in block.refers_to:
                lines.append(f"{INDENT}{size.size} = {scope[size.value]}.size({size.dimension})")
        lines += [f"{INDENT}{line}" for line in prelude]
        body = Body(method.graph, block, scope, method.hints, self.methods).lines
        return [*lines, *(body or [f"{INDENT}pass"])]


def _assigned(name: str, code: str) -> str:
    if is_plain(name):
        return f"{INDENT}self.{name} = {code}"
    return f"{INDENT}setattr(self, {quoted(name)}, {code})"


def _numbered(module: Module) -> dict[str, Module]:
    return {name: member for name, member in module.members.items() if is_number(name)}


def _dictionary(members: dict[str, str]) -> str:
    """Members by name; those in a row that are alike in one expression."""
    parts: list[str] = []
    names = list(members)
    at = 0
    while at < len(names):
        end = at + 1
        while end < len(names) and _continues(names, at, end, members):
            end += 1
        code = members[names[at]]
        if end - at > 1:
            parts.append(
                f"**{{i: {code} for i in range({names[at]}, {int(names[at]) + end - at})}}"
            )
        else:
            key = names[at] if is_number(names[at]) else quoted(names[at])
            parts.append(f"{key}: {code}")
        at = end
    if len(parts) == 1 and parts[0].startswith("**"):
        return parts[0].removeprefix("**")
    return f"{{{', '.join(parts)}}}"


def _continues(names: Sequence[str], at: int, end: int, members: dict[str, str]) -> bool:
    if not (is_number(names[at]) and is_number(names[end])):
        return False
    following = int(names[end]) == int(names[at]) + end - at
    return following and members[names[end]] == members[names[at]]


def _part_lines(block: Block) -> list[str]:
    """Which part of a divided module a class is."""
    if not block.part:
        return []
    parts = {"Start": "The first part", "Middle": "A middle part", "End": "The last part"}
    part, name = parts.get(block.part, "A part"), identifier(block.path[-1].class_name)
    return [f'    """{part} of {name}; other stages have the rest."""', ""]


def _source(block: Block) -> str:
    """Where the first of a block's own operators is written in the model's source."""
    own = [item for item in block.body if isinstance(item, Operator) and item.source]
    return own[0].source.strip(" ()") if own else ""
