"""Ways of tracing a model are tried in turn, none that is known to fail."""

import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from pipecut.compiler.trace.batch import ExampleBatch
from pipecut.compiler.trace.ways import ENTERS, Enter, ways
from pipecut.model.unsplit import WithLoss

MODEL = WithLoss(nn.Linear(2, 2), None)
BATCH = ExampleBatch(2, {"x": torch.ones(2, 2)}, frozenset(), {})
EAGER, ANSWERED, ALONE = ENTERS
LACKING = GuardOnDataDependentSymNode(None, "no value")  # type: ignore[no-untyped-call]


def tried(errors: dict[Enter, BaseException], first: Enter = EAGER) -> list[tuple[Enter, bool]]:
    """The ways that all fail so, each with whether it knows the batch."""
    found = []
    for way in ways(MODEL, BATCH, by_example=False, first=first):
        found.append((way.enter, way.given is not None))
        way.error = errors[way.enter]
    return found


def test_the_example_batch_is_asked_only_where_a_value_was_lacking() -> None:
    without = [(EAGER, False), (ANSWERED, False), (ALONE, False)]
    other = TypeError("unhashable")
    assert tried(dict.fromkeys(ENTERS, other)) == without
    with_values = [*without, (EAGER, True), (ANSWERED, True)]
    assert tried(dict.fromkeys(ENTERS, LACKING)) == with_values


def test_what_failed_for_another_reason_is_not_tried_with_values() -> None:
    errors: dict[Enter, BaseException] = {**dict.fromkeys(ENTERS, LACKING), EAGER: TypeError()}
    found = tried(errors)
    assert found == [(EAGER, False), (ANSWERED, False), (ALONE, False), (ANSWERED, True)]


def test_what_traced_the_model_in_training_comes_first() -> None:
    found = tried(dict.fromkeys(ENTERS, TypeError()), first=ANSWERED)
    assert [enter for enter, _ in found] == [ANSWERED, EAGER, ALONE]
