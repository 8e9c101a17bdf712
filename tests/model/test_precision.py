"""What a precision casts, and what it leaves."""

import pytest
import torch
from torch import nn

from pipecut.model.precision import as_summed, cast_inputs, cast_model


def model() -> nn.Module:
    module = nn.Linear(2, 2)
    module.register_buffer("mean", torch.ones(2))
    module.register_buffer("count", torch.ones(2, dtype=torch.int64))
    module.register_buffer("table", torch.ones(2), persistent=False)
    return module


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_floats_of_the_state_dict_are_cast(name: str, dtype: torch.dtype) -> None:
    cast = cast_model(model(), name)
    dtypes = {n: t.dtype for n, t in (*cast.named_parameters(), *cast.named_buffers())}
    assert dtypes == {
        "weight": dtype,
        "bias": dtype,
        "mean": dtype,
        "count": torch.int64,
        # Such as the angles of rotary embeddings, which are computed in float32.
        "table": torch.float32,
    }


def test_parameters_stay_the_same_objects() -> None:
    module = model()
    before = list(module.parameters())
    after = list(cast_model(module, "bf16").parameters())
    assert all(a is b for a, b in zip(before, after, strict=True))


def test_single_precision_casts_nothing() -> None:
    module, batch = model().double(), {"x": torch.ones(1, dtype=torch.float64)}
    assert cast_model(module, "fp32").get_parameter("weight").dtype == torch.float64
    assert cast_inputs(batch, "fp32") is batch


def test_floating_inputs_are_cast() -> None:
    cast = cast_inputs({"x": torch.ones(1), "tokens": torch.ones(1, dtype=torch.int64)}, "bf16")
    assert cast["x"].dtype == torch.bfloat16 and cast["tokens"].dtype == torch.int64


def test_losses_are_summed_in_float32_at_least() -> None:
    kinds = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
    summed = [as_summed(torch.ones((), dtype=dtype)).dtype for dtype in kinds]
    assert summed == [torch.float32] * 3 + [torch.float64]
