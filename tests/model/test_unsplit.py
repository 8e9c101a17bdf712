"""From batch to loss: how a model is called, and which losses are refused."""

from typing import Any

import pytest
import torch
from torch import nn

from pipecut.errors import TraceError
from pipecut.model.unsplit import WithLoss, names_needed, names_taken


class Scorer(nn.Module):
    """Returns what it was called with."""

    def forward(self, x: torch.Tensor, scale: float = 1.0, *, mask: Any = None) -> Any:
        return {"logits": x * scale, "mask": mask}


class Anything(nn.Module):
    def forward(self, x: Any, *rest: Any, **more: Any) -> Any:
        return x


class Returns(nn.Module):
    """Returns the same whatever the batch."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result

    def forward(self, **batch: Any) -> Any:
        return self.result


def mean(output: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return (output["logits"] - batch["labels"]).mean()


def test_names_that_a_forward_takes_and_needs() -> None:
    assert names_taken(Scorer()) == {"x", "scale", "mask"} and names_needed(Scorer()) == ("x",)
    assert names_taken(Anything()) is None and names_needed(Anything()) == ("x",)


def test_with_a_loss_function_the_model_gets_what_it_takes() -> None:
    batch = {"x": torch.ones(2), "labels": torch.zeros(2)}
    assert WithLoss(Scorer(), mean)(batch).item() == 1.0


def test_without_one_the_model_gets_all() -> None:
    with pytest.raises(TypeError, match="labels"):
        WithLoss(Scorer(), None)({"x": torch.ones(2), "labels": torch.zeros(2)})


def test_a_traced_model_also_returns_its_outputs_by_name() -> None:
    module = WithLoss(Scorer(), mean)
    module.traced, module.names, module.constants = True, {"input_0": "x"}, {"scale": 2.0}
    result = module({"input_0": torch.ones(2), "labels": torch.zeros(2)})
    assert [loss.item() for loss in result["loss"]] == [2.0]
    assert list(result["others"]) == ["logits"]


def test_an_evaluated_model_may_have_no_loss() -> None:
    module = WithLoss(Scorer(), None)
    module.traced, module.has_loss = True, False
    result = module({"x": torch.ones(2), "mask": 3})
    assert result["loss"] == [] and "mask" in module.left_out.now


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"logits": torch.ones(2)}, "is not a scalar loss and has none as .loss or"),
        (3.0, "is not a scalar loss"),
        (torch.tensor(1), "the model's loss is int64; .* an integer has no gradient"),
        (torch.tensor(1j), "the model's loss is complex64; .* take its real part"),
    ],
)
def test_what_is_no_loss_of_a_model_is_refused(result: Any, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        WithLoss(Returns(result), None)({})


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (2.0, "test_unsplit:given_loss returns a float; .* leave out .item"),
        (torch.ones(2, 3), r"returns a tensor of shape \[2, 3\]; it must be a scalar"),
    ],
)
def test_what_is_no_loss_of_a_function_is_refused(loss: Any, message: str) -> None:
    def given_loss(output: Any, batch: Any) -> Any:
        return loss

    given_loss.__qualname__ = "given_loss"
    with pytest.raises(TraceError, match=message):
        WithLoss(Returns(0), given_loss)({})
