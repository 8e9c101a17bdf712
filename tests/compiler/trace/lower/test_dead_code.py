"""Operators that nothing needs are dropped; writes that something reads are kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecut.compiler.graph import Operator, Ref
from pipecut.compiler.trace.lower.dead_code import without_dead_code
from tests.compiler.graphs import operator

RELU = operator("relu", "aten.relu.default", Ref("x"))
UNUSED = operator("unused", "aten.tanh.default", Ref("relu"))
LOSS = operator("loss", "aten.sum.default", Ref("relu"))
VIEW = operator("view", "aten.view.default", Ref("relu"), aliases=("relu",))
# Writes to relu through its view; nothing uses the result.
FILL = operator("fill", "aten.fill_.Scalar", Ref("view"), 0, writes=("view",), aliases=("view",))
COUNT = operator("count", "aten.add_.Tensor", Ref("b"), 1, writes=("b",), aliases=("b",))


def names(*operators: Operator, results: tuple[str, ...] = ("loss",)) -> list[str]:
    return [o.name for o in without_dead_code(operators, results, buffers={"b"})]


@pytest.mark.parametrize(
    ("operators", "kept"),
    [
        ((RELU, UNUSED, LOSS), ["relu", "loss"]),
        ((RELU, VIEW, FILL, LOSS), ["relu", "view", "fill", "loss"]),
        # After the last read a write changes nothing that is needed, but relu is still alive.
        ((RELU, LOSS, COUNT), ["relu", "loss", "count"]),
        ((RELU, VIEW, UNUSED, LOSS), ["relu", "loss"]),
    ],
)
def test_what_the_loss_or_a_buffer_needs_is_kept(
    operators: tuple[Operator, ...], kept: list[str]
) -> None:
    assert names(*operators) == kept


def test_a_write_to_what_nobody_reads_is_dropped() -> None:
    other = operator("other", "aten.relu.default", Ref("x"))
    zero = operator("zero", "aten.zero_.default", Ref("other"), writes=("other",))
    assert names(RELU, other, zero, LOSS) == ["relu", "loss"]


@given(st.lists(st.lists(st.integers(0, 30), max_size=3), min_size=1, max_size=12), st.data())
def test_exactly_the_ancestors_of_the_results_stay(
    uses: list[list[int]], data: st.DataObject
) -> None:
    operators = [
        operator(str(i), "aten.cat.default", tuple(Ref(str(j)) for j in used if j < i))
        for i, used in enumerate(uses)
    ]
    result = str(data.draw(st.integers(0, len(uses) - 1)))
    ancestors, waiting = set(), [result]
    while waiting:
        name = waiting.pop()
        ancestors.add(name)
        waiting += operators[int(name)].inputs
    kept = without_dead_code(operators, {result}, set())
    assert [o.name for o in kept] == sorted(ancestors, key=int)
