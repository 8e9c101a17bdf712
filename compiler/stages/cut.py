"""Placement -> what each stage holds, receives and sends. Plain facts, shared by emit and the prediction."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pipecut.compiler.graph import Buffer, Graph, Operator, Output, Parameter


@dataclass(frozen=True)
class Cut:
    """One stage of a cut graph. `receives` and `sends` are value names, in the order they were made; `outputs` the graph's.

    `evaluation` is the stage in eval mode, where the graph has operators of its own for that.
    """

    index: int
    operators: tuple[int, ...]
    receives: tuple[str, ...]
    sends: tuple[str, ...]
    batch_inputs: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    buffers: tuple[Buffer, ...]
    outputs: tuple[Output, ...] = ()
    evaluation: "Cut | None" = None


def cut(graph: Graph, stages_of: Sequence[Collection[int]], stages: int) -> tuple[Cut, ...]:
    """Split a graph along a placement. What no operator uses is held by stage 0; what several stages make does not cross."""
    made = graph.producers()
    uses: dict[str, set[int]] = defaultdict(set)
    for index, operator in enumerate(graph.operators):
        for name in operator.inputs:
            uses[name].update(stages_of[index])
    if graph.loss:
        uses[graph.loss].add(stages - 1)
    crossing: list[list[str]] = [[] for _ in range(stages)]
    for name, index in made.items():
        if not uses[name] <= set(stages_of[index]):
            for left in range(min(stages_of[index]), max(uses[name])):
                crossing[left].append(name)
    result = []
    for stage in range(stages):
        own = tuple(i for i, on in enumerate(stages_of) if stage in on)
        receives = tuple(crossing[stage - 1]) if stage else ()
        batch_inputs = batch_inputs_of(
            graph, receives, {name for name in graph.batch_names() if stage in uses[name]}
        )
        parameters = tuple(p for p in graph.parameters if stage in (uses[p.value] or {0}))
        buffers = tuple(b for b in graph.buffers if stage in (uses[b.value] or {0}))
        outputs = tuple(
            output for output in graph.outputs if min(stages_of[made[output.value]]) == stage
        )
        result.append(
            Cut(
                stage,
                own,
                receives,
                tuple(crossing[stage]),
                batch_inputs,
                parameters,
                buffers,
                outputs,
            )
        )
    return tuple(result)


def batch_inputs_of(
    graph: Graph, receives: tuple[str, ...], used: Collection[str]
) -> tuple[str, ...]:
    """Batch inputs of a part of the graph: those it uses, and one to read the batch size off where nothing else has it."""
    own = tuple(name for name in graph.batch_names() if name in used)
    if graph.dynamic and not any("batch" in graph.values[n].shape for n in (*receives, *own)):
        own += tuple(n for n in graph.batch_names() if "batch" in graph.values[n].shape)[:1]
    return own


def modules_covered(operators: list[Operator]) -> list[str]:
    """The source modules of some operators, layers as ranges: `transformer.wte`, `transformer.h.0-5`."""
    layers: dict[str, list[int]] = {}
    for operator in operators:
        if not operator.module:
            continue
        parts = operator.module.split(".")
        numbers = [i for i, part in enumerate(parts) if part.isdigit()]
        if numbers:
            layers.setdefault(".".join(parts[: numbers[0]]), []).append(int(parts[numbers[0]]))
        elif len(parts) > 1 or not any(m.module.startswith(parts[0] + ".") for m in operators):
            layers.setdefault(".".join(parts[:3]), [])
    names = []
    for prefix, numbers in layers.items():
        if not numbers and any(
            other.startswith(prefix + ".") or (other == prefix and layers[other])
            for other in layers
        ):
            continue
        names += [f"{prefix}.{r}" for r in _ranges(sorted(set(numbers)))] if numbers else [prefix]
    return names


def _ranges(numbers: list[int]) -> list[str]:
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return [str(a) if a == b else f"{a}-{b}" for a, b in ranges]
