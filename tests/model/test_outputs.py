"""Names of what a model returns, whatever structure holds it."""

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipecut.errors import RunError
from pipecut.model.outputs import Outputs, loss_in, outputs_of

LOSS, A, B = torch.tensor(1.0), torch.zeros(2), torch.zeros(3)
Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Result:
    loss: torch.Tensor
    logits: torch.Tensor
    states: tuple[torch.Tensor, ...]


@pytest.mark.parametrize(
    ("output", "names"),
    [
        (A, ["output"]),
        ((LOSS, A, [B]), ["output.1", "output.2.0"]),
        ({"loss": LOSS, "logits": A, 3: B}, ["logits", "3"]),
        (Pair(A, B), ["left", "right"]),
        (Result(LOSS, A, (A, B)), ["logits", "states.0", "states.1"]),
        (SimpleNamespace(loss=LOSS, logits=A, cache=None), ["logits"]),
        (LOSS, []),
        (None, []),
    ],
)
def test_tensors_are_named_by_where_they_are(output: Any, names: list[str]) -> None:
    outputs = outputs_of(output, LOSS)
    assert list(outputs.tensors) == names and not outputs.left_out


def test_what_is_no_tensor_is_left_out_with_a_reason() -> None:
    outputs = outputs_of({"logits": A, "layers": 3, "mask": {"of": object()}}, None)
    assert list(outputs.tensors) == ["logits"]
    assert outputs.left_out["layers"] == "it is 3 whatever the batch, no tensor"
    assert "it is a object; have the model return the tensors" in outputs.left_out["mask.of"]


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (LOSS, True),
        (A, False),
        ({"loss": LOSS}, True),
        ({"logits": LOSS}, False),
        ((LOSS, A), True),
        ((A, LOSS), False),
        ([], False),
        (SimpleNamespace(loss=LOSS), True),
        (Result(A, A, ()), False),
        (3.0, False),
    ],
)
def test_the_loss_is_a_scalar_where_models_put_it(output: Any, found: bool) -> None:
    assert (loss_in(output) is LOSS) == found


def test_a_name_without_a_tensor_says_why() -> None:
    outputs = Outputs({"logits": A}, {"cache": "it is a Cache"})
    assert outputs["logits"] is A
    with pytest.raises(RunError, match="'cache' cannot be handed out: it is a Cache"):
        outputs["cache"]
    with pytest.raises(KeyError):
        outputs["logit"]
