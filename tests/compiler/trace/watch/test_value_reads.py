"""What a model asks of tensors without values is answered, and marked where a run must check it."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, ShapeEnv

from pipecut.compiler.trace.watch.choices import Choices
from pipecut.compiler.trace.watch.known_values import Given
from pipecut.compiler.trace.watch.value_reads import NOTHING, ValueReads
from pipecut.compiler.trace.ways import NOT_PLAIN

FAKE = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
# As in a trace: its values are not there.
X = FAKE.from_tensor(torch.tensor([3.0, 1.0]))
VALUE = torch.tensor([5.0, -2.0])


def reads(given: bool = False) -> ValueReads:
    """Reads of a model; with `given`, the example batch has VALUE for X."""
    batch = Given({"x": VALUE}, {})
    answering = ValueReads(Choices(), batch if given else None)
    if given:
        answering.values.note_given({"x": X}, batch.batch)
    return answering


def texts(answering: ValueReads) -> list[str]:
    return [f"{choice.words} is {choice.answer}" for choice in answering.choices.made]


def test_a_line_that_only_raises_goes_on_without_a_value() -> None:
    with reads() as answering:
        if X.max() >= 0:
            raise ValueError("is answered")
        if not torch.all(X > 10).item():
            raise ValueError("is answered, too")
    assert texts(answering) == ["X.max() >= 0 is False", "torch.all(X > 10).item() is True"]
    assert all(choice.only_raises for choice in answering.choices.made)
    assert answering.choices.made[0].source.rpartition(":")[0].endswith("test_value_reads.py")


def test_a_choice_without_a_value_is_left_to_the_trace() -> None:
    with reads() as answering, pytest.raises(GuardOnDataDependentSymNode):
        1 if X.max() >= 0 else 2
    assert not answering.choices.made and len(answering.choices.unanswered) == 1


def test_the_example_batch_answers() -> None:
    with reads(given=True) as answering:
        assert (1 if X.min() >= 0 else 2) == 2
        assert X.tolist() == [5.0, -2.0]
        assert int(X[0]) == 5
        assert torch.equal(X, X * 1) is True
    assert texts(answering) == [
        "X.min() >= 0 is False",
        "X.tolist() == [5.0, -2.0] is True",
        "int(X[0]) == 5 is True",
        "torch.equal(X, X * 1) is True",
    ]


def test_of_a_number_that_is_compared_the_answer_counts_alone() -> None:
    with reads(given=True) as answering:
        largest = X.max().item()
        assert (largest > 3) is True and (7 > largest) is True
        assert bool(largest)
        assert [0] * int(largest) == [0] * 5 and largest + 1 == 6.0
        with pytest.raises(TypeError, match=NOT_PLAIN):
            torch.full((2,), largest)
    assert texts(answering) == [
        "largest > 3 is True",
        "7 > largest is True",
        "bool(largest) is True",
        "X.max().item() == 5.0 is True",
    ]


def test_what_is_usual_stands_for_what_nobody_knows() -> None:
    unknown = FAKE.from_tensor(torch.tensor([float("nan")]))
    with reads(given=True) as answering:
        assert (1 if torch.isfinite(unknown * 2).all() else 2) == 1
        assert (1 if torch.isnan(unknown).any() else 2) == 2
    assert texts(answering) == [
        "torch.isfinite(unknown * 2).all() is True",
        "torch.isnan(unknown).any() is False",
    ]


def test_sizes_in_a_tensor_are_numbers() -> None:
    table = torch.arange(8)
    with reads() as answering:
        parts = table.tensor_split(torch.tensor([2, 5]))
        assert table[: torch.tensor(3)].shape == (3,)
    assert [len(part) for part in parts] == [2, 3, 3] and not answering.choices.made


def test_what_something_unknown_is_written_to_is_unknown_with_its_views() -> None:
    known, unknown = FAKE.from_tensor(torch.zeros(2)), FAKE.from_tensor(torch.ones(2))
    answering = ValueReads(Choices(), Given({}, {}))
    answering.values.note_given({"k": known}, {"k": torch.zeros(2)})
    with answering:
        view = known[:1]
        assert id(view) in answering.values.known
        known.add_(unknown)
    assert not {id(known), id(view)} & answering.values.known.keys()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_plan_is_made_for_a_number_that_equals_nothing(value: float) -> None:
    batch = Given({"x": torch.tensor(value)}, {})
    answering = ValueReads(Choices(), batch)
    answering.values.note_given({"x": X}, batch.batch)
    answer = answering._read(torch.Tensor.item, (X,), {})
    assert (answer is NOTHING) == (value != value)
