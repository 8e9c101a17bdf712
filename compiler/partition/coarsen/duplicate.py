"""Operators that depend on no input of the batch, and run on every stage that uses their result.

Position biases, tables of cosines, masks and zeros depend only on parameters, constants and the
batch's size. Sent, they would cross every boundary up to their last user, with gradients back where
a parameter is among them. Duplicated, they take their seconds on each of these stages, and a
trained parameter among them is shared by the stages as a tied one is.
"""

from collections.abc import Iterable, Iterator

from pipecut.compiler.costs.roofline import CostedGraph
from pipecut.compiler.graph import Graph, Value
from pipecut.compiler.operators.lookup import may_draw_random, rule_of
from pipecut.compiler.partition.constraints import Constraints
from pipecut.compiler.partition.problem import StageDevice

# Part of the seconds of an even stage. What takes less is not worth a message, whose work on the
# host and whose buffers are not counted.
NEGLIGIBLE = 0.01


def duplicated_operators(
    costed: CostedGraph,
    stage_devices: tuple[StageDevice, ...],
    constraints: Constraints,
    fixed: dict[str, int],
    written: dict[str, list[int]],
) -> frozenset[int]:
    """Operators that each stage runs for itself.

    `fixed` has each parameter's bytes with gradient and states, `written` the operators of each
    storage that is written.
    """
    if len(stage_devices) < 2:
        return frozenset()
    graph = costed.graph
    candidates = _independent(graph, {index for index, _ in constraints.pins}, written)
    needs = _Needs(graph, candidates, written)
    negligible = NEGLIGIBLE * _even_stage_seconds(costed, stage_devices)
    chosen: set[int] = set()
    for index in sorted(candidates):
        name = graph.operators[index].name
        if (
            index not in chosen
            and name in graph.values
            and _is_cheaper(costed, stage_devices, name, needs.of(index), fixed, negligible)
        ):
            chosen |= needs.of(index)
    # The parts of a result that has several belong to it.
    results = {graph.operators[index].name for index in chosen}
    for index in sorted(candidates):
        operator = graph.operators[index]
        if rule_of(operator.target).part_of_input and set(operator.inputs) & results:
            chosen.add(index)
    return frozenset(chosen)


def _independent(graph: Graph, pinned: set[int], written: dict[str, list[int]]) -> set[int]:
    """Operators that depend on no input, directly or through what is drawn or written elsewhere."""
    inputs = set(graph.batch_names())
    lasting = inputs | {parameter.value for parameter in graph.parameters}
    lasting |= {buffer.value for buffer in graph.buffers}
    barred = set(pinned)
    for name, indices in written.items():
        if name in lasting:
            barred.update(indices)
    while True:
        independent = _without(graph, inputs, barred)
        # What writes to a storage is duplicated with all that touch it, or not at all.
        mixed = {
            index
            for indices in written.values()
            if not independent.issuperset(indices)
            for index in indices
            if index in independent
        }
        if not mixed:
            return independent
        barred |= mixed


def _without(graph: Graph, inputs: set[str], barred: set[int]) -> set[int]:
    """Operators that need no input or barred one, make nothing handed out and draw nothing."""
    outputs = {graph.loss, *(output.value for output in graph.outputs)}
    outputs |= {check.value for check in graph.checks}
    dependent = set(inputs)
    independent: set[int] = set()
    for index, operator in enumerate(graph.operators):
        depends = index in barred or any(name in dependent for name in operator.inputs)
        if depends or operator.name in outputs or may_draw_random(operator.target):
            dependent.add(operator.name)
        else:
            independent.add(index)
    return independent


class _Needs:
    """All that an operator needs to run, itself among it."""

    def __init__(self, graph: Graph, candidates: set[int], written: dict[str, list[int]]) -> None:
        self.operators, self.producers = graph.operators, graph.producers()
        # What touches a written storage needs all others that touch it.
        self.together = {
            index: indices
            for indices in written.values()
            for index in indices
            if index in candidates
        }
        self.computed: dict[int, frozenset[int]] = {}

    def of(self, index: int) -> frozenset[int]:
        """Indices of operators."""
        if index not in self.computed:
            needed, waiting = set[int](), [index]
            while waiting:
                operator = waiting.pop()
                if operator not in needed:
                    needed.add(operator)
                    waiting += self.directly(operator)
            self.computed[index] = frozenset(needed)
        return self.computed[index]

    def directly(self, index: int) -> Iterator[int]:
        """What makes its inputs, and what touches a written storage with it."""
        inputs = self.operators[index].inputs
        yield from (self.producers[name] for name in inputs if name in self.producers)
        yield from self.together.get(index, ())


def _is_cheaper(
    costed: CostedGraph,
    stage_devices: tuple[StageDevice, ...],
    name: str,
    needed: Iterable[int],
    fixed: dict[str, int],
    negligible: float,
) -> bool:
    """Whether computing a tensor is no slower and takes no more memory than sending it.

    No slower than the fastest link, or than `negligible` seconds; its parameters no larger than its
    copies in flight.
    """
    graph, value = costed.graph, costed.graph.values[name]
    kinds = {device.kind for device in stage_devices}
    seconds = max(sum(costed.seconds(index, kind) for index in needed) for kind in kinds)
    inputs = {name for index in needed for name in graph.operators[index].inputs}
    parameter_bytes = sum(fixed[name] for name in inputs if name in fixed)
    sent_bytes = value.bytes * max(device.in_flight for device in stage_devices)
    is_quick = seconds <= max(sent_seconds(value, stage_devices), negligible)
    return is_quick and parameter_bytes <= sent_bytes


def _even_stage_seconds(costed: CostedGraph, stage_devices: tuple[StageDevice, ...]) -> float:
    """Seconds of a stage with an even share of the work, on the fastest kind of device."""
    operators = range(len(costed.graph.operators))
    all_seconds = min(
        sum(costed.seconds(index, kind) for index in operators)
        for kind in {device.kind for device in stage_devices}
    )
    return all_seconds / len(stage_devices)


def sent_seconds(value: Value, stage_devices: tuple[StageDevice, ...]) -> float:
    """Seconds of a tensor, and of its gradient, over the fastest link between two stages."""
    messages = 1 + value.needs_grad
    return min(
        (
            messages * (value.bytes / device.bandwidth + device.latency)
            for device in stage_devices[:-1]
        ),
        default=0.0,
    )


def users_of(
    graph: Graph,
    duplicated: frozenset[int],
    block_of: dict[int, int],
    written: dict[str, list[int]],
) -> dict[int, frozenset[int]]:
    """Duplicated operator -> the blocks that need it, directly or through others.

    Who reads a storage needs what writes to it, whether or not it uses the write's own result.
    """
    needs = _Needs(graph, set(duplicated), written)
    blocks: dict[int, set[int]] = {index: set() for index in duplicated}
    waiting = [(index, {block}) for index, block in block_of.items()]
    while waiting:
        index, users = waiting.pop()
        for needed in needs.directly(index):
            if needed in blocks and not users <= blocks[needed]:
                blocks[needed] |= users
                waiting.append((needed, blocks[needed]))
    return {index: frozenset(users) for index, users in blocks.items()}
