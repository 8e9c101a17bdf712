"""The graph of eval mode -> the stages that the training graph was placed on.

What both modes run stays where training has it. The rest goes to the earliest stage that what it
needs allows, since nothing goes back; constants go where they are first used. A parameter, or a
buffer that training writes, stays where training has it.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from pipecut.compiler.graph import Graph
from pipecut.compiler.partition.coarsen.groups import inseparable, kept_together, ordered_groups
from pipecut.compiler.stages.cut import Cut, cut


@dataclass(frozen=True)
class EvaluationCuts:
    """The cuts with what each stage runs in eval mode; training's own where that is `refused`."""

    cuts: tuple[Cut, ...]
    refused: str = ""


@dataclass(frozen=True)
class _NoStageError(Exception):
    """No stage has what a group of operators needs; `index` is its first operator."""

    index: int


def place_evaluation(
    graph: Graph, stages_of: Sequence[Collection[int]], cuts: tuple[Cut, ...]
) -> EvaluationCuts:
    """Place the operators of eval mode, where the graph has other ones for that."""
    evaluation = graph.evaluation
    if evaluation is None:
        return EvaluationCuts(cuts, graph.refused)
    placing = _Placing(graph, evaluation, stages_of, cuts)
    try:
        try:
            placed = placing.stages(follow_training=True)
        except _NoStageError:
            placed = placing.stages(follow_training=False)
    except _NoStageError as error:
        return EvaluationCuts(cuts, _reason(evaluation, error.index))
    evaluation_cuts = cut(evaluation, [(stage,) for stage in placed], len(cuts))
    pairs = zip(cuts, evaluation_cuts, strict=True)
    return EvaluationCuts(tuple(_joined(graph, evaluation, *pair) for pair in pairs))


def _reason(evaluation: Graph, index: int) -> str:
    operator = evaluation.operators[index]
    return (
        f"in eval mode {operator.module or 'the model'}{operator.source} needs what a later stage "
        "makes, but its parameters lie on an earlier one; compile with fewer stages, or keep the "
        "two together with placement: in the job file"
    )


def _joined(graph: Graph, evaluation: Graph, training_cut: Cut, evaluation_cut: Cut) -> Cut:
    """A stage that holds what either mode uses there; what neither uses stays on stage 0."""
    used_in_training = {name for operator in graph.operators for name in operator.inputs}
    used_in_evaluation = {name for operator in evaluation.operators for name in operator.inputs}
    operators = [evaluation.operators[index] for index in evaluation_cut.operators]
    used_on_stage = {name for operator in operators for name in operator.inputs}

    def holds(value: str) -> bool:
        used_as_trained = value in used_in_training or value not in used_in_evaluation
        return value in used_on_stage or (value in training_cut.held and used_as_trained)

    parameters = tuple(parameter for parameter in graph.parameters if holds(parameter.value))
    buffers = tuple(buffer for buffer in evaluation.buffers if holds(buffer.value))
    opaque = tuple(dict.fromkeys((*training_cut.opaque, *evaluation_cut.opaque)))
    evaluation_cut = replace(evaluation_cut, parameters=parameters, buffers=buffers, opaque=opaque)
    return replace(
        training_cut,
        parameters=parameters,
        buffers=buffers,
        opaque=opaque,
        evaluation=evaluation_cut,
    )


class _Placing:
    """Places groups of operators that no cut may separate, one after the other."""

    def __init__(
        self,
        graph: Graph,
        evaluation: Graph,
        stages_of: Sequence[Collection[int]],
        cuts: tuple[Cut, ...],
    ) -> None:
        self.evaluation, self.count = evaluation, len(cuts)
        # What several stages make in training comes from the first of them: nothing goes back.
        self.training_stage_of = {
            operator.name: min(stages_of[index]) for index, operator in enumerate(graph.operators)
        }
        self.dependencies = evaluation.dependencies()
        storages = kept_together(evaluation)
        self.groups = ordered_groups(self.dependencies, inseparable(evaluation, storages))
        self.parameters = {parameter.value for parameter in graph.parameters}
        self.holders = _holders(graph, cuts)

    def stages(self, follow_training: bool) -> list[int]:
        """The stage of each operator of eval mode. Raises _NoStageError."""
        holders = dict(self.holders)
        placed = [0] * len(self.evaluation.operators)
        constants = []
        for group in self.groups:
            operators = [self.evaluation.operators[index] for index in group]
            earlier = self._stages_before(group, placed)
            needed = {name for operator in operators for name in operator.inputs}
            allowed = set(range(max(earlier, default=0), self.count)).intersection(
                *(holders[name] for name in needed if name in holders)
            )
            if not allowed:
                raise _NoStageError(group[0])
            in_training = Counter(
                self.training_stage_of[operator.name]
                for operator in operators
                if operator.name in self.training_stage_of
            )
            wanted = max(earlier, default=0)
            if in_training and follow_training:
                wanted = in_training.most_common(1)[0][0]
            stage = min((abs(stage - wanted), stage) for stage in allowed)[1]
            for index in group:
                placed[index] = stage
            # A parameter that only eval mode uses has one holder: nothing sums it over stages.
            for name in (needed & self.parameters) - set(holders):
                holders[name] = {stage}
            if not earlier and not in_training and not needed & set(holders):
                constants.append(group)
        self._move_to_first_use(constants, placed)
        return placed

    def _stages_before(self, group: Sequence[int], placed: Sequence[int]) -> list[int]:
        """The stages of what a group needs from other groups."""
        return [
            placed[before]
            for index in group
            for before in self.dependencies.predecessors(index)
            if before not in group
        ]

    def _move_to_first_use(self, groups: Sequence[Sequence[int]], placed: list[int]) -> None:
        """Place constants, which may stand anywhere, where they are first used."""
        for group in reversed(groups):
            users = [
                placed[after]
                for index in group
                for after in self.dependencies.successors(index)
                if after not in group
            ]
            for index in group:
                placed[index] = min(users, default=placed[index])


def _holders(graph: Graph, cuts: Sequence[Cut]) -> dict[str, set[int]]:
    """The stages of what eval mode may not move: what training uses, and buffers that it writes."""
    used = {name for operator in graph.operators for name in operator.inputs}
    roots = graph.roots()
    written = {roots.get(name, name) for operator in graph.operators for name in operator.writes}
    fixed = [parameter.value for parameter in graph.parameters if parameter.value in used]
    fixed += [buffer.value for buffer in graph.buffers if buffer.value in written]
    holders: dict[str, set[int]] = {name: set() for name in fixed}
    for stage_cut in cuts:
        for name in stage_cut.held & set(holders):
            holders[name].add(stage_cut.index)
    return holders
