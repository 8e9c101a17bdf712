"""What torch.export cannot trace is explained by the user's line and a remedy."""

import pytest
from torch import nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from pipecut.compiler.trace.explain import explained, first_line
from pipecut.model.unsplit import WithLoss

PLAIN = WithLoss(nn.Sequential(nn.Linear(2, 2)), None)
CUMULATIVE = WithLoss(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, momentum=None)), None)


def raised_here(error: BaseException) -> BaseException:
    """The error with this file as the innermost frame of the user's code."""
    with pytest.raises(type(error)) as info:
        raise error
    return info.value


def test_an_error_is_cut_to_its_first_line_and_the_users() -> None:
    error = raised_here(ValueError("\n  the reason\nten lines more"))
    message = str(explained(error, PLAIN))
    assert message.startswith("torch.export cannot trace the model: ValueError: the reason (at ")
    assert "test_explain.py:" in message and "ten lines" not in message
    assert explained(error, PLAIN).__cause__ is error


def test_a_choice_by_a_value_says_what_to_write_instead() -> None:
    error = raised_here(GuardOnDataDependentSymNode(None, "u0 > 0"))  # type: ignore[arg-type]
    assert "by a tensor's value (at " in str(explained(error, PLAIN))
    assert str(explained(error, PLAIN)).endswith("with torch.where, or take it out of forward")


def test_a_cumulative_batch_norm_is_named() -> None:
    error = raised_here(GuardOnDataDependentSymNode(None, "u0 > 0"))  # type: ignore[arg-type]
    message = str(explained(error, CUMULATIVE))
    assert message.startswith("'1' (BatchNorm1d) has momentum=None, which weights each batch")
    assert message.endswith("give it a momentum, such as 0.1")
    # Other errors have other causes.
    assert "momentum" not in str(explained(ValueError("x"), CUMULATIVE))


def test_an_error_without_a_message_is_its_type() -> None:
    assert first_line(KeyError()) == "KeyError: "
