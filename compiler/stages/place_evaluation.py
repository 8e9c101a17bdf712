"""The graph of eval mode -> the stages that the training graph was placed on.

What both modes have stands where training has it. The rest stands as early as what it needs allows, since nothing goes back;
constants stand where they are first used. A parameter, or a buffer that training writes, stays where training has it.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from pipecut.compiler.graph import Graph
from pipecut.compiler.partition.coarsen.groups import inseparable, ordered_groups, written_storages
from pipecut.compiler.stages.cut import Cut, cut


@dataclass(frozen=True)
class _NoStageError(Exception):
    """No stage has what a group of operators needs."""

    index: int


def place_evaluation(
    graph: Graph, stages_of: Sequence[Collection[int]], cuts: tuple[Cut, ...]
) -> tuple[tuple[Cut, ...], str]:
    """The cuts with what each stage runs in eval mode, and "", or the cuts as they are and the reason why that cannot be."""
    evaluation = graph.evaluation
    if evaluation is None:
        return cuts, graph.refused
    placing = _Placing(graph, evaluation, stages_of, cuts)
    try:
        try:
            placed = placing.run(eager_paths=True)
        except _NoStageError:
            placed = placing.run(eager_paths=False)
    except _NoStageError as error:
        operator = evaluation.operators[error.index]
        where = f"{operator.module or 'the model'}{operator.source}"
        return cuts, (
            f"in eval mode {where} needs what a later stage makes, but its parameters lie on an earlier one; "
            "compile with fewer stages, or keep the two together with placement: in the job file"
        )
    found = cut(evaluation, [(stage,) for stage in placed], len(cuts))
    return tuple(_joined(graph, own, other) for own, other in zip(cuts, found, strict=True)), ""


def _joined(graph: Graph, own: Cut, other: Cut) -> Cut:
    """A stage that holds what either mode uses there; what neither uses stays on the first stage."""
    assert graph.evaluation is not None
    trained = {name for operator in graph.operators for name in operator.inputs}
    anywhere = {name for operator in graph.evaluation.operators for name in operator.inputs}
    here = {name for index in other.operators for name in graph.evaluation.operators[index].inputs}

    def holds(value: str, held: bool) -> bool:
        return value in here or (held and (value in trained or value not in anywhere))

    mine = {p.value for p in own.parameters} | {b.value for b in own.buffers}
    parameters = tuple(p for p in graph.parameters if holds(p.value, p.value in mine))
    buffers = tuple(b for b in graph.evaluation.buffers if holds(b.value, b.value in mine))
    return replace(
        own,
        parameters=parameters,
        buffers=buffers,
        evaluation=replace(other, parameters=parameters, buffers=buffers),
    )


class _Placing:
    """Groups of operators that no cut may separate, one after the other."""

    def __init__(
        self,
        graph: Graph,
        evaluation: Graph,
        stages_of: Sequence[Collection[int]],
        cuts: tuple[Cut, ...],
    ) -> None:
        self.evaluation, self.stages = evaluation, len(cuts)
        # What each stage makes for itself in training comes from the first of them: nothing goes back.
        self.twins = {
            operator.name: min(stages_of[index]) for index, operator in enumerate(graph.operators)
        }
        self.dependencies = evaluation.dependencies()
        self.groups = ordered_groups(
            self.dependencies, inseparable(evaluation, written_storages(evaluation))
        )
        trained = {name for operator in graph.operators for name in operator.inputs}
        roots = graph.roots()
        written = {
            roots.get(name, name) for operator in graph.operators for name in operator.writes
        }
        self.parameters = {p.value for p in graph.parameters}
        fixed = [p.value for p in graph.parameters if p.value in trained]
        fixed += [b.value for b in graph.buffers if b.value in written]
        self.held: dict[str, set[int]] = {name: set() for name in fixed}
        for one in cuts:
            here = {p.value for p in one.parameters} | {b.value for b in one.buffers}
            for name in here & set(self.held):
                self.held[name].add(one.index)

    def run(self, eager_paths: bool) -> list[int]:
        """The stage of each operator of eval mode. Raises _NoStageError."""
        held = dict(self.held)
        placed = [0] * len(self.evaluation.operators)
        loose = []
        for group in self.groups:
            inside = set(group)
            operators = [self.evaluation.operators[index] for index in group]
            earlier = [
                placed[i]
                for index in group
                for i in self.dependencies.predecessors(index)
                if i not in inside
            ]
            least = max(earlier, default=0)
            needed = {name for operator in operators for name in operator.inputs}
            allowed = set(range(least, self.stages)).intersection(
                *(held[name] for name in needed if name in held)
            )
            if not allowed:
                raise _NoStageError(group[0])
            twins = Counter(self.twins[o.name] for o in operators if o.name in self.twins)
            wanted = twins.most_common(1)[0][0] if twins and eager_paths else least
            stage = min((abs(s - wanted), s) for s in allowed)[1]
            for index in group:
                placed[index] = stage
            # A parameter that eval mode alone uses is on one stage, as none of it is summed over stages.
            held |= {name: {stage} for name in needed & self.parameters if name not in held}
            if not earlier and not twins and not needed & set(held):
                loose.append(group)
        for group in reversed(loose):
            later = [
                placed[i]
                for index in group
                for i in self.dependencies.successors(index)
                if i not in group
            ]
            for index in group:
                placed[index] = min(later, default=placed[index])
        return placed
