"""What is no tensor under a name is refused with a remedy, before anything is sent."""

from typing import Any

import pytest
import torch

from pipecut.errors import RunError
from pipecut.runtime.batches.check_tensors import check_tensors


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"x": torch.ones(2).numpy()}, "input 'x' is a ndarray.*make it one with torch.from_numpy"),
        ({"x": None}, "input 'x' is a NoneType.*leave it out of the model's inputs"),
        ({"x": [1, 2]}, "input 'x' is a list, it must be a tensor.*torch.as_tensor"),
        ({3: torch.ones(2)}, "the batch has a key 3; keys are names of inputs"),
        ({"x": torch.eye(2).to_sparse()}, "input 'x' is torch.sparse_coo; give it with .to_dense"),
    ],
)
def test_a_value_that_is_no_tensor_is_named(batch: dict[Any, Any], message: str) -> None:
    with pytest.raises(RunError, match=f"^rank 3: {message}"):
        check_tensors(batch, "rank 3")


def test_tensors_and_the_plans_constants_pass() -> None:
    check_tensors({"x": torch.ones(2), "power": 2, "kind": None}, "rank 0", ("power", "kind"))
