"""Groups of operators -> blocks, the tensors between them and what they share."""

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

from pipecut.compiler.costs.roofline import CostedGraph
from pipecut.compiler.partition.coarsen.duplicate import users_of
from pipecut.compiler.partition.constraints import Constraints
from pipecut.compiler.partition.contract import merge_tensors
from pipecut.compiler.partition.problem import (
    Block,
    Duplicated,
    Problem,
    SharedParameter,
    StageDevice,
    TensorUse,
)
from pipecut.compiler.partition.reduce import needed_edges

Edges = set[tuple[int, int]]


@dataclass(frozen=True)
class Grouping:
    """Groups of operators, each a block, and the operators that are in none of them.

    `written` has the operators of each storage that is written.
    """

    costed: CostedGraph
    members: list[list[int]]
    duplicated: frozenset[int]
    written: dict[str, list[int]]

    @cached_property
    def block_of(self) -> dict[int, int]:
        """Operator -> its block."""
        return {index: block for block, group in enumerate(self.members) for index in group}

    @cached_property
    def duplicate_users(self) -> dict[int, frozenset[int]]:
        """Duplicated operator -> the blocks that need its result, directly or through others."""
        return users_of(self.costed.graph, self.duplicated, self.block_of, self.written)

    @cached_property
    def producers(self) -> dict[str, int]:
        """Value -> the operator of a block that makes it."""
        producers = self.costed.graph.producers()
        return {name: index for name, index in producers.items() if index not in self.duplicated}

    def users(self) -> dict[str, set[int]]:
        """Value -> the blocks that use it, directly or through a duplicated operator."""
        users: dict[str, set[int]] = defaultdict(set)
        for index, operator in enumerate(self.costed.graph.operators):
            blocks = (
                self.duplicate_users[index] if index in self.duplicated else {self.block_of[index]}
            )
            for name in operator.inputs:
                users[name] |= blocks
        return users

    def saved_bytes(self, operators: list[int]) -> int:
        """Bytes that operators keep for backward, per microbatch."""
        names = (self.costed.graph.operators[index].name for index in operators)
        return sum(
            self.costed.saved.get(name, 0) + self.costed.costs[index].saved_own_bytes
            for name, index in zip(names, operators, strict=True)
        )

    def seconds(self, operators: list[int], kinds: list[str]) -> dict[str, float]:
        """Forward and backward seconds by kind of device."""
        return {
            kind: sum(self.costed.seconds(index, kind) for index in operators) for kind in kinds
        }

    def forward_seconds(self, operators: list[int], kinds: list[str]) -> dict[str, float]:
        """Forward seconds by kind of device."""
        costs = self.costed.costs
        return {kind: sum(costs[index].forward[kind] for index in operators) for kind in kinds}


def _costed_kinds(grouping: Grouping) -> list[set[str]]:
    """The device kinds of each operator's costs."""
    return [set(cost.forward) for cost in grouping.costed.costs]


def assemble(
    grouping: Grouping,
    stage_devices: tuple[StageDevice, ...],
    fixed: dict[str, int],
    constraints: Constraints,
) -> Problem:
    """The problem of these groups; `fixed` has the bytes of each parameter."""
    # Of every kind that was costed: another order of the nodes may bring other devices to stages.
    kinds = sorted({device.kind for device in stage_devices}.union(*_costed_kinds(grouping)))
    users = grouping.users()
    tensors, edges = _tensors(grouping, users)
    pins = {(grouping.block_of[index], stage) for index, stage in constraints.pins}
    return Problem(
        _blocks(grouping, kinds),
        needed_edges(edges, len(grouping.members)),
        merge_tensors(tensors),
        (*_parameters(grouping, users, fixed), *_duplicates(grouping, kinds)),
        stage_devices,
        pins=tuple(sorted(pins)),
        splits=tuple(sorted(_splits(grouping, constraints))),
        duplicated=tuple(
            Duplicated(operator, tuple(sorted(blocks)))
            for operator, blocks in sorted(grouping.duplicate_users.items())
        ),
    )


def _blocks(grouping: Grouping, kinds: list[str]) -> tuple[Block, ...]:
    costs = grouping.costed.costs
    # What a duplicated operator needs for a moment is needed wherever a block uses its result.
    transient: dict[int, int] = defaultdict(int)
    for index, users in grouping.duplicate_users.items():
        for block in users:
            transient[block] = max(transient[block], costs[index].transient_bytes)
    return tuple(
        Block(
            tuple(group),
            grouping.seconds(group, kinds),
            grouping.saved_bytes(group),
            max([transient[block], *(costs[index].transient_bytes for index in group)]),
            grouping.forward_seconds(group, kinds),
        )
        for block, group in enumerate(grouping.members)
    )


def _tensors(grouping: Grouping, users: dict[str, set[int]]) -> tuple[tuple[TensorUse, ...], Edges]:
    """The tensors that blocks use of others, and an edge for each use.

    A use that is no tensor, such as that of a tuple, is only an edge.
    """
    tensors, edges = [], set[tuple[int, int]]()
    for name, index in grouping.producers.items():
        source = grouping.block_of[index]
        consumers = tuple(sorted(users[name] - {source}))
        edges.update((source, consumer) for consumer in consumers)
        value = grouping.costed.graph.values.get(name)
        if consumers and value is not None:
            gradient = value.bytes if value.needs_grad else 0
            messages = 1 + value.needs_grad
            tensors.append(TensorUse(name, source, consumers, value.bytes, gradient, messages))
    return tuple(tensors), edges


def _parameters(
    grouping: Grouping, users: dict[str, set[int]], fixed: dict[str, int]
) -> list[SharedParameter]:
    """Every parameter; one that nothing uses stands with the first block."""
    return [
        SharedParameter(
            parameter.names[0],
            fixed[parameter.value],
            tuple(sorted(users[parameter.value])) or (0,),
        )
        for parameter in grouping.costed.graph.parameters
    ]


def _duplicates(grouping: Grouping, kinds: list[str]) -> list[SharedParameter]:
    """What stages compute for themselves, one for all with the same users.

    What costs nothing is left out.
    """
    operators_of: dict[frozenset[int], list[int]] = defaultdict(list)
    for index, users in sorted(grouping.duplicate_users.items()):
        operators_of[users].append(index)
    duplicates = [
        SharedParameter(
            grouping.costed.graph.operators[operators[-1]].name,
            0,
            tuple(sorted(users)),
            grouping.seconds(operators, kinds),
            grouping.forward_seconds(operators, kinds),
            grouping.saved_bytes(operators),
        )
        for users, operators in operators_of.items()
    ]
    return [row for row in duplicates if row.saved_bytes or any(row.seconds.values())]


def _splits(grouping: Grouping, constraints: Constraints) -> Edges:
    """For each cut asked for, what its module needs of others and the blocks that need it."""
    splits = set[tuple[int, int]]()
    operators, producers = grouping.costed.graph.operators, grouping.producers
    for module in constraints.before:
        inside = set(module)
        for index in inside - grouping.duplicated:
            sources = {producers[name] for name in operators[index].inputs if name in producers}
            splits |= {
                (grouping.block_of[source], grouping.block_of[index]) for source in sources - inside
            }
    return splits
