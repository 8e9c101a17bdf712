"""Tensors that share memory are found by their storage, which not every tensor of a trace has."""

from typing import Any

import pytest
import torch
from torch import fx

from pipecut.compiler.trace.lower.storage import _storage_of
from pipecut.errors import TraceError


def test_a_tensor_within_a_transformed_function_is_refused() -> None:
    node = fx.Graph().call_function(torch.ops.aten.pow.Tensor_Scalar)

    def cubed(x: torch.Tensor) -> Any:
        with pytest.raises(TraceError, match="torch.func.grad.*aten.pow.*model.opaque"):
            _storage_of(x, node)
        return (x**3).sum()

    torch.func.grad(cubed)(torch.ones(2))
    assert _storage_of(torch.ones(2), node)
