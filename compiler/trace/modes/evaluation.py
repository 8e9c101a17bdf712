"""What runs in eval mode: the training graph's operators where they do, else a graph of its own.

Both graphs are compared operator by operator. An operator that differs in numbers and flags only,
as dropout does, is written once and reads `self.training`. Where operators themselves differ, the
graph of eval mode is kept beside the other, and what both have goes by the same name.
"""

from collections.abc import Sequence
from dataclasses import replace

from pipecut.compiler.graph import Graph, Operator
from pipecut.compiler.operators.lookup import rule_of
from pipecut.compiler.trace.modes.merge import merged


def with_evaluation(training: Graph, evaluation: Graph) -> Graph:
    """The training graph, with what eval mode runs.

    `evaluation` has every operator that its loss and outputs need.
    """
    evaluation = merged(training, evaluation)
    twins = {operator.name: operator for operator in evaluation.operators}
    computed = {operator.name for operator in training.operators}
    operators = tuple(
        _with_modes(operator, twins.get(operator.name)) for operator in training.operators
    )
    outputs = tuple(output for output in evaluation.outputs if output.value in computed)
    graph = replace(training, operators=operators, outputs=outputs, left_out=evaluation.left_out)
    return graph if _serves(graph, evaluation) else replace(graph, evaluation=evaluation)


def _with_modes(operator: Operator, twin: Operator | None) -> Operator:
    if twin is None or not twin.modes:
        return operator
    return replace(operator, args=twin.args, modes=twin.modes)


def only_dropout_differs(operators: Sequence[Operator], dropouts: int) -> bool:
    """Whether eval mode differs in the flags of dropout only.

    `dropouts` counts calls of F.dropout whose flag is the module's mode: if all that is random are
    these, and no running statistics are kept, nothing else can differ.
    """
    drops = [operator for operator in operators if _drops(operator)]
    other_draws = [operator for operator in operators if operator.draws and not _drops(operator)]
    norms = [operator for operator in operators if rule_of(operator.target).statistics]
    return len(drops) == dropouts and not other_draws and not norms


def without_dropout(training: Graph) -> Graph:
    """The graph that a trace in eval mode would have, where dropout's flag is all that differs."""
    operators = [
        _in_evaluation(operator) if _drops(operator) else operator
        for operator in training.operators
    ]
    return replace(training, operators=tuple(operators))


def _drops(operator: Operator) -> bool:
    rule = rule_of(operator.target)
    return rule.drops and operator.args[rule.training_flag :] == (True,)


def _in_evaluation(dropout: Operator) -> Operator:
    flag = rule_of(dropout.target).training_flag
    return replace(dropout, args=(*dropout.args[:flag], False), draws=())


def _serves(training: Graph, evaluation: Graph) -> bool:
    """Whether the training graph, run in eval mode, computes what the other graph does."""
    if (training.loss, training.symbols) != (evaluation.loss, evaluation.symbols):
        return False
    if set(training.checks) != set(evaluation.checks):
        return False
    return _in_order(training, evaluation) and not _writes_what_is_read(training, evaluation)


def _in_order(training: Graph, evaluation: Graph) -> bool:
    """Whether training has the other graph's operators in its order, with its random draws."""
    position = training.producers()
    positions = [position.get(operator.name) for operator in evaluation.operators]
    indices = [index for index in positions if index is not None]
    if len(indices) < len(positions) or indices != sorted(indices):
        return False
    # Random draws are counted in each mode by itself.
    return all(
        operator.draws in ((), training.operators[index].draws)
        for operator, index in zip(evaluation.operators, indices, strict=True)
    )


def _writes_what_is_read(training: Graph, evaluation: Graph) -> bool:
    """Whether an operator that only training has writes to what eval mode reads."""
    roots = training.roots()
    read = {name for operator in evaluation.operators for name in operator.inputs}
    read |= {roots.get(name, name) for name in read}
    both = {operator.name for operator in evaluation.operators}
    written = {
        roots.get(name, name)
        for operator in training.operators
        if operator.writes and operator.name not in both
        for name in (*operator.writes, operator.name)
    }
    return not written.isdisjoint(read)
