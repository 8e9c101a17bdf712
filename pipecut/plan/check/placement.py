"""Everything is on a stage, parameters are where they are used, and values only go forward."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from pipecut.errors import PlanError
from pipecut.plan.schema import Plan, Stage
from pipecut.plan.schema.graph import EvaluationGraph, GraphBuffer, PlanGraph
from pipecut.quantities import counted


def names_known(plan: Plan, graph: PlanGraph) -> None:
    """The graph has what the plan names. Raises PlanError."""
    parameters = {entry.names[0] for entry in graph.parameters}
    inputs = {tensor.name for tensor in plan.inputs}
    for stage in plan.stages:
        names = [
            *(tensor.names[0] for tensor in stage.parameters if tensor.names[0] not in parameters),
            *(name for name in (*stage.receives, *stage.sends) if name not in graph.values),
            *(name for name in stage.batch_inputs if name not in inputs),
        ]
        if names:
            raise PlanError(
                f"stage {stage.index} has '{names[0]}', which the graph does not; compile again"
            )
    for tied in plan.tied:
        stages = [plan.stages[index] for index in tied.stages]
        if any(tied.names[0] not in {t.names[0] for t in s.parameters} for s in stages):
            raise PlanError(
                f"tied parameter {tied.names[0]} is not on all of the stages {tied.stages}; "
                "compile again"
            )


def names_on(stage: Stage) -> set[str]:
    """All names of the parameters and buffers that a stage holds."""
    return {name for tensor in (*stage.parameters, *stage.buffers) for name in tensor.names}


def all_placed(plan: Plan, graph: PlanGraph) -> str:
    """Every operator, parameter and buffer is on a stage, and what an operator uses on its own.

    Raises PlanError.
    """
    using: dict[str, set[int]] = defaultdict(set)
    for operator in graph.operators:
        if any(not 0 <= stage < len(plan.stages) for stage in operator.placed_on):
            raise PlanError(
                f"operator {operator.name} ({operator.module}) is on no stage; compile again"
            )
        for name in operator.inputs:
            using[name].update(operator.placed_on)
    names = [names_on(stage) for stage in plan.stages]
    tied_stages = {name: set(tied.stages) for tied in plan.tied for name in tied.names}
    trained = {parameter.value for parameter in graph.parameters if parameter.trainable}
    for entry in (*graph.parameters, *graph.buffers):
        holders = {index for index, on_stage in enumerate(names) if entry.names[0] in on_stage}
        _check_holders(entry, holders, using[entry.value])
        summed = tied_stages.get(entry.names[0]) == holders
        if entry.value in trained and len(holders) > 1 and not summed:
            raise PlanError(
                f"{entry.names[0]} is on stages {sorted(holders)} but its gradients are not "
                "summed over them; compile again"
            )
    counts = (
        counted(len(graph.operators), "operator"),
        counted(len(graph.parameters), "parameter"),
        counted(len(graph.buffers), "buffer"),
    )
    return f"{', '.join(counts)} placed"


def _check_holders(entry: GraphBuffer, holders: set[int], users: set[int]) -> None:
    name = entry.names[0]
    if not holders:
        raise PlanError(f"parameter or buffer {name} is on no stage; compile again")
    if users - holders:
        raise PlanError(
            f"stage {min(users - holders)} uses {name} but does not hold it; compile again"
        )


def flows_forward(plan: Plan, graph: PlanGraph | EvaluationGraph) -> str:
    """Values only go forward, over every boundary between where they are made and used.

    Raises PlanError.
    """
    crossing = {b.left: {tensor.name for tensor in b.tensors} for b in plan.boundaries}
    for use in _uses_from_elsewhere(graph):
        if use.source > use.stage:
            raise PlanError(
                f"{use.operator} on stage {use.stage} uses {use.value} of later stage "
                f"{use.source}; compile again"
            )
        for boundary in range(use.source, use.stage):
            if use.value not in crossing.get(boundary, set()):
                raise PlanError(
                    f"{use.value} is needed on stage {use.stage} but does not cross "
                    f"{boundary} -> {boundary + 1}; compile again"
                )
    for boundary, names in crossing.items():
        before, after = plan.stages[boundary], plan.stages[boundary + 1]
        if set(before.sends) != names or set(after.receives) != names:
            raise PlanError(
                f"stages {before.index} and {after.index} disagree about what crosses between "
                "them; compile again"
            )
    tensors = set().union(*crossing.values())
    cross = "crosses" if len(tensors) == 1 else "cross"
    return (
        f"the stage graph is acyclic; {counted(len(tensors), 'tensor')} {cross} "
        f"{counted(len(crossing), 'boundary')}"
    )


@dataclass(frozen=True)
class _Use:
    """An operator on `stage` uses a value that stage `source` makes."""

    operator: str
    value: str
    stage: int
    source: int


def _uses_from_elsewhere(graph: PlanGraph | EvaluationGraph) -> Iterator[_Use]:
    """Uses of values that the stage does not make itself."""
    makers = {operator.name: operator.placed_on for operator in graph.operators}
    for operator in graph.operators:
        for value in operator.inputs:
            for stage in operator.placed_on:
                stages = makers.get(value, (stage,))
                if stage not in stages:
                    # It comes from the first stage that makes it.
                    yield _Use(operator.name, value, stage, min(stages))
