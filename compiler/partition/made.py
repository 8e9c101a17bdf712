"""What depends on no input of the batch, and is made on every stage that uses it instead of sent from one to the next.

Position biases, tables of cosines, masks and zeros depend on parameters, constants and the batch's size alone. Sent, they would
cross every boundary up to their last user, with gradients back where a parameter is among them. Made, they take their seconds
on each stage, and a trained parameter is shared by these stages as a tied one is.
"""

from collections.abc import Iterable, Iterator

from pipecut.compiler.costs.roofline import CostedGraph
from pipecut.compiler.graph import Graph, Value
from pipecut.compiler.operators.lookup import may_draw_random, rule_of
from pipecut.compiler.partition.constraints import Constraints
from pipecut.compiler.partition.problem import StageDevice

# Of the seconds of an even stage: what is made in less is not worth a message, whose host side and buffers are not counted.
NEGLIGIBLE = 0.01


def made_where_used(
    costed: CostedGraph,
    stage_devices: tuple[StageDevice, ...],
    constraints: Constraints,
    fixed: dict[str, int],
    touched: dict[str, list[int]],
) -> frozenset[int]:
    """Operators that stages run for themselves.

    `fixed` has each parameter's bytes with gradient and states, `touched` the operators of each storage that is written.
    """
    if len(stage_devices) < 2:
        return frozenset()
    graph = costed.graph
    free = _free(graph, {index for index, _ in constraints.pins}, touched)
    if not free:
        return frozenset()
    needs = _Needs(graph, free, touched)
    chosen: set[int] = set()
    for index in sorted(free):
        name = graph.operators[index].name
        if (
            index not in chosen
            and name in graph.values
            and _cheaper(costed, stage_devices, name, needs.of(index), fixed)
        ):
            chosen |= needs.of(index)
    # Parts of a result that has several belong to it.
    whole = {graph.operators[index].name for index in chosen}
    for index in sorted(free):
        operator = graph.operators[index]
        if rule_of(operator.target).part_of_input and set(operator.inputs) & whole:
            chosen.add(index)
    return frozenset(chosen)


def _free(graph: Graph, pinned: set[int], touched: dict[str, list[int]]) -> set[int]:
    """Operators that depend on no input, directly or through what is drawn or written elsewhere."""
    given = {name for name, _ in graph.batch_inputs}
    barred = set(pinned)
    held = {p.value for p in graph.parameters} | {b.value for b in graph.buffers}
    for name, indices in touched.items():
        if name in held or name in given:
            barred.update(indices)
    outputs = {graph.loss, *(value for _, value in graph.outputs)}
    while True:
        bound = set(given)
        free: set[int] = set()
        for index, operator in enumerate(graph.operators):
            depends = any(name in bound for name in operator.inputs)
            if (
                depends
                or index in barred
                or operator.name in outputs
                or may_draw_random(operator.target)
            ):
                bound.add(operator.name)
            else:
                free.add(index)
        # What is written is written wherever it is made, or nowhere but on one stage.
        mixed = {
            i
            for indices in touched.values()
            if not free.issuperset(indices)
            for i in indices
            if i in free
        }
        if not mixed:
            return free
        barred |= mixed


class _Needs:
    """All that an operator needs to be made, itself among it."""

    def __init__(self, graph: Graph, free: set[int], touched: dict[str, list[int]]) -> None:
        self.graph, self.free = graph, free
        self.made = graph.producers()
        self.together = {i: indices for indices in touched.values() for i in indices if i in free}
        self.known: dict[int, frozenset[int]] = {}

    def of(self, index: int) -> frozenset[int]:
        """Indices of operators."""
        if index not in self.known:
            found, waiting = set[int](), [index]
            while waiting:
                i = waiting.pop()
                if i not in found:
                    found.add(i)
                    waiting += self._directly(i)
            self.known[index] = frozenset(found)
        return self.known[index]

    def _directly(self, index: int) -> Iterator[int]:
        yield from (
            self.made[name] for name in self.graph.operators[index].inputs if name in self.made
        )
        yield from self.together.get(index, ())


def _cheaper(
    costed: CostedGraph,
    stage_devices: tuple[StageDevice, ...],
    name: str,
    needed: Iterable[int],
    fixed: dict[str, int],
) -> bool:
    """Whether to make a tensor takes no longer than to send it over the fastest link, and its parameters no more room."""
    graph, value = costed.graph, costed.graph.values[name]
    kinds = {slot.kind for slot in stage_devices}
    made = max(sum(costed.seconds(i, kind) for i in needed) for kind in kinds)
    sent = sent_seconds(value, stage_devices)
    stage = min(
        sum(costed.seconds(i, kind) for i in range(len(graph.operators))) for kind in kinds
    ) / len(stage_devices)
    parameters = {name for i in needed for name in graph.operators[i].inputs if name in fixed}
    room = value.bytes * max(slot.in_flight for slot in stage_devices)
    return made <= max(sent, NEGLIGIBLE * stage) and sum(fixed[p] for p in parameters) <= room


def sent_seconds(value: Value, stage_devices: tuple[StageDevice, ...]) -> float:
    """Of a tensor, and its gradient, over the fastest link that has anything to send."""
    recompute_choices = 1 + value.needs_grad
    return min(
        (
            recompute_choices * (value.bytes / slot.bandwidth + slot.latency)
            for slot in stage_devices[:-1]
        ),
        default=0.0,
    )


def users_of(
    graph: Graph, made: frozenset[int], block_of: dict[int, int]
) -> dict[int, frozenset[int]]:
    """Of every operator that stages run for themselves, the blocks that need it."""
    producers = graph.producers()
    found: dict[int, set[int]] = {index: set() for index in made}
    for index in range(len(graph.operators) - 1, -1, -1):
        users = found[index] if index in made else {block_of[index]}
        for name in graph.operators[index].inputs:
            if producers.get(name) in found:
                found[producers[name]] |= users
    return {index: frozenset(users) for index, users in found.items()}
