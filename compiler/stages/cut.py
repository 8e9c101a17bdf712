"""Placement -> what each stage holds, receives and sends."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipecut.compiler.choices import Check
from pipecut.compiler.graph import Buffer, Graph, Operator, Output, Parameter
from pipecut.text_table import ranges


@dataclass(frozen=True)
class Cut:
    """One stage of a cut graph; operators are indices, `receives` and `sends` names of values.

    Both stand in the order in which the values are made. `evaluation` is the stage in eval mode,
    where the graph has other operators for that. `opaque` are the modules that it runs as they are.
    """

    index: int
    operators: tuple[int, ...]
    receives: tuple[str, ...]
    sends: tuple[str, ...]
    batch_inputs: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    buffers: tuple[Buffer, ...]
    outputs: tuple[Output, ...] = ()
    checks: tuple[Check, ...] = ()
    evaluation: "Cut | None" = None
    opaque: tuple[str, ...] = ()

    @property
    def held(self) -> set[str]:
        """The values of its parameters and buffers."""
        return {p.value for p in self.parameters} | {b.value for b in self.buffers}

    def __str__(self) -> str:
        """A line per thing that the stage has; tied parameters as `one = other`."""
        rows: dict[str, Sequence[str]] = {
            "operators": ranges(self.operators),
            "receives": self.receives,
            "batch": self.batch_inputs,
            "sends": self.sends,
            "parameters": [" = ".join(parameter.names) for parameter in self.parameters],
            "buffers": [" = ".join(buffer.names) for buffer in self.buffers],
            "opaque": self.opaque,
            "outputs": [f"{output.name}: {output.value}" for output in self.outputs],
            "checks": list(map(str, self.checks)),
        }
        lines = [f"stage {self.index}"]
        lines += [f"  {name:<12}{', '.join(texts)}" for name, texts in rows.items() if any(texts)]
        if self.evaluation is not None:
            lines.append("  in eval mode")
            lines += [f"  {line}" for line in str(self.evaluation).splitlines()[1:]]
        return "\n".join(lines)


def cut(graph: Graph, stages_of: Sequence[Collection[int]], stages: int) -> tuple[Cut, ...]:
    """Split a graph along a placement.

    What no operator uses is held by stage 0; what every user makes for itself does not cross.
    """
    using = _stages_using(graph, stages_of, last=stages - 1)
    crossing = _crossing(graph, stages_of, using, stages)
    producers = graph.producers()
    cuts = []
    for stage in range(stages):
        receives = crossing[stage - 1] if stage else ()
        used = {name for name in graph.batch_names() if stage in using[name]}
        cuts.append(
            Cut(
                stage,
                operators=tuple(i for i, placed in enumerate(stages_of) if stage in placed),
                receives=receives,
                sends=crossing[stage],
                batch_inputs=batch_inputs_of(graph, receives, used),
                parameters=tuple(p for p in graph.parameters if stage in (using[p.value] or {0})),
                buffers=tuple(b for b in graph.buffers if stage in (using[b.value] or {0})),
                outputs=tuple(
                    output
                    for output in graph.outputs
                    if min(stages_of[producers[output.value]]) == stage
                ),
                opaque=opaque_modules(
                    graph.operators[i] for i, placed in enumerate(stages_of) if stage in placed
                ),
                checks=tuple(
                    check
                    for check in graph.checks
                    if min(stages_of[producers[check.value]]) == stage
                ),
            )
        )
    return tuple(cuts)


def _stages_using(
    graph: Graph, stages_of: Sequence[Collection[int]], last: int
) -> dict[str, set[int]]:
    """The stages that use a value; the last one returns the loss."""
    using: dict[str, set[int]] = defaultdict(set)
    for index, operator in enumerate(graph.operators):
        for name in operator.inputs:
            using[name].update(stages_of[index])
    if graph.loss:
        using[graph.loss].add(last)
    return using


def _crossing(
    graph: Graph,
    stages_of: Sequence[Collection[int]],
    using: dict[str, set[int]],
    stages: int,
) -> list[tuple[str, ...]]:
    """What each stage sends on: a value goes from the first stage that has it to its last user."""
    crossing: list[list[str]] = [[] for _ in range(stages)]
    for name, index in graph.producers().items():
        if using[name] <= set(stages_of[index]):
            continue
        for left in range(min(stages_of[index]), max(using[name])):
            crossing[left].append(name)
    return [tuple(names) for names in crossing]


def in_each_mode(graph: Graph, stage: Cut) -> Iterator[tuple[Graph, Cut]]:
    """The graph and a stage of it: training's, then eval mode's where that has other operators."""
    yield graph, stage
    if graph.evaluation is not None and stage.evaluation is not None:
        yield graph.evaluation, stage.evaluation


def opaque_modules(operators: Iterable[Operator]) -> tuple[str, ...]:
    """The modules among some operators that run as they are, each once."""
    calls = (operator.opaque for operator in operators if operator.opaque is not None)
    return tuple(dict.fromkeys(call.module for call in calls))


def batch_inputs_of(
    graph: Graph, receives: tuple[str, ...], used: Collection[str]
) -> tuple[str, ...]:
    """Batch inputs of a part of the graph: those it uses.

    For each size, such as that of the batch, that none of them and nothing received has as a
    dimension, an input to read it off is added.
    """
    inputs = tuple(name for name in graph.batch_names() if name in used)

    for symbol in graph.symbols:
        if not any(symbol in graph.values[name].shape for name in (*receives, *inputs)):
            having = [name for name in graph.batch_names() if symbol in graph.values[name].shape]
            inputs += tuple(having[:1])
    return inputs
