"""The costed graph and its placement -> the graph of the plan."""

from collections.abc import Sequence

from pipecut.compiler.costs.roofline import CostedGraph
from pipecut.compiler.graph import Buffer, Graph, Parameter
from pipecut.compiler.partition.placement import Placement
from pipecut.compiler.stages.cut import Cut
from pipecut.plan.schema.graph import (
    EvaluationGraph,
    EvaluationOperator,
    GraphBuffer,
    GraphParameter,
    GraphValue,
    PlacedOperator,
    PlanGraph,
)


def graph_of(costed: CostedGraph, placement: Placement, cuts: Sequence[Cut]) -> PlanGraph:
    """graph.json, without the problem that was solved."""
    graph = costed.graph
    plan_graph = PlanGraph(
        loss=graph.loss,
        operators=tuple(
            _operator(costed, index, stages) for index, stages in enumerate(placement.stages_of)
        ),
        values={
            value.name: GraphValue(
                shape=value.shape,
                dtype=value.dtype,
                bytes=value.bytes,
                needs_grad=value.needs_grad,
            )
            for value in graph.values.values()
        },
        parameters=tuple(map(_parameter, graph.parameters)),
        buffers=tuple(map(_buffer, graph.buffers)),
    )
    stage_of = {
        index: cut.index
        for cut in cuts
        if cut.evaluation is not None
        for index in cut.evaluation.operators
    }
    if graph.evaluation is None or not stage_of:
        return plan_graph
    evaluation = _evaluation(graph.evaluation, stage_of)
    return plan_graph.model_copy(update={"evaluation": evaluation})


def _operator(costed: CostedGraph, index: int, stages: frozenset[int]) -> PlacedOperator:
    operator, cost = costed.graph.operators[index], costed.costs[index]
    placed = PlacedOperator(
        name=operator.name,
        target=operator.target,
        module=operator.module,
        source=operator.source.strip(" ()"),
        inputs=operator.inputs,
        stage=min(stages),
        forward_seconds=cost.forward,
        backward_seconds=cost.backward,
        saved_bytes=costed.saved.get(operator.name, 0) + cost.saved_own_bytes,
        transient_bytes=cost.transient_bytes,
    )
    if len(stages) == 1:
        return placed
    return placed.model_copy(update={"stages": tuple(sorted(stages))})


def _evaluation(graph: Graph, stage_of: dict[int, int]) -> EvaluationGraph:
    return EvaluationGraph(
        loss=graph.loss,
        operators=tuple(
            EvaluationOperator(
                name=operator.name,
                target=operator.target,
                module=operator.module,
                inputs=operator.inputs,
                stage=stage_of[index],
            )
            for index, operator in enumerate(graph.operators)
        ),
        outputs={output.name: output.value for output in graph.outputs},
        buffers=tuple(map(_buffer, graph.buffers)),
    )


def _parameter(parameter: Parameter) -> GraphParameter:
    return GraphParameter(
        value=parameter.value,
        names=parameter.names,
        bytes=parameter.bytes,
        trainable=parameter.trainable,
    )


def _buffer(buffer: Buffer) -> GraphBuffer:
    return GraphBuffer(value=buffer.value, names=buffer.names)
