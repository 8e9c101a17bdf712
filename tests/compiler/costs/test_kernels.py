"""A CUDA plan's operators keep for backward what CUDA's kernels keep; needs no GPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from pipecut.compiler.costs.attention import Attention, Kernel, kernel_of
from pipecut.compiler.costs.kernels import Kernels
from pipecut.runtime.observe.allocations import Allocations

BF16, FP32 = torch.bfloat16, torch.float32
HEADS, ROWS, WIDTH = 16, 512, 64
FULL = (2, HEADS, ROWS, WIDTH)
SCORES = (2, HEADS, ROWS, ROWS)
# Of a result in bfloat16, of one float32 a row, of scores in bfloat16.
RESULT, ROW_SUMS, SCORE_BYTES = (
    2 * HEADS * ROWS * WIDTH * 2,
    2 * HEADS * ROWS * 4,
    2 * HEADS * ROWS * ROWS * 2,
)


def kept(
    device_type: str,
    function: Callable[..., torch.Tensor],
    *shapes: tuple[int, ...],
    dtype: torch.dtype,
) -> tuple[int, int]:
    """Bytes alive after forward beside the inputs; most bytes in backward with all gradients."""
    with FakeTensorMode(), Kernels(device_type):
        tensors = [torch.empty(shape, dtype=dtype, requires_grad=True) for shape in shapes]
        with Allocations(tensors) as counted:
            before = counted.live
            result = function(*tensors)
            after = counted.live - before
            result.backward(torch.empty_like(result))
            return after, counted.peak - before


def test_flash_attention_keeps_its_result_and_a_number_a_row() -> None:
    size, _ = kept("cuda", F.scaled_dot_product_attention, FULL, FULL, FULL, dtype=BF16)
    assert size == RESULT + ROW_SUMS


def test_a_learnt_mask_keeps_no_scores_on_cuda_but_its_gradient_is_of_their_size() -> None:
    size, most = kept("cuda", F.scaled_dot_product_attention, FULL, FULL, FULL, SCORES, dtype=BF16)
    assert size == RESULT + ROW_SUMS
    # And of what came in, of queries, keys and values, and sums in float32.
    assert SCORE_BYTES + 5 * RESULT < most < SCORE_BYTES + 8 * RESULT + 4 * ROW_SUMS
    on_cpu, _ = kept("cpu", F.scaled_dot_product_attention, FULL, FULL, FULL, SCORES, dtype=BF16)
    assert on_cpu > 2.5 * SCORE_BYTES


def test_a_mask_for_all_heads_has_its_gradient_summed() -> None:
    def masked(query: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(query, query, query, attn_mask=mask)

    size, _ = kept("cuda", masked, FULL, (1, 1, ROWS, ROWS), dtype=BF16)
    assert size == RESULT + ROW_SUMS


def test_float32_with_shared_keys_takes_plain_operators_on_cuda() -> None:
    def grouped(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(query, key, key, enable_gqa=True)

    few = (2, 4, ROWS, WIDTH)
    plain, _ = kept("cuda", grouped, FULL, few, dtype=FP32)
    fused, _ = kept("cuda", grouped, FULL, few, dtype=BF16)
    assert plain > 2 * SCORE_BYTES
    assert fused == RESULT + ROW_SUMS


def test_dropout_keeps_a_byte_an_element_on_cuda() -> None:
    elements = 2 * HEADS * ROWS * WIDTH
    for dtype in (BF16, FP32):
        size, _ = kept("cuda", lambda x: F.dropout(x, 0.1, training=True), FULL, dtype=dtype)
        assert size == elements * (dtype.itemsize + 1)
    size, _ = kept("cuda", lambda x: F.dropout(x, 0.1, training=False), FULL, dtype=FP32)
    assert size == 0


def test_operators_are_replaced_as_functions_are() -> None:
    attention: Any = torch.ops.aten.scaled_dot_product_attention.default
    size, _ = kept("cuda", attention, FULL, FULL, FULL, SCORES, dtype=BF16)
    assert size == RESULT + ROW_SUMS


@pytest.mark.parametrize(
    ("shape", "dtype", "mask", "dropout", "causal", "on_cuda", "on_cpu"),
    [
        (FULL, BF16, False, 0.0, True, "flash", "flash"),
        (FULL, FP32, False, 0.0, True, "efficient", "flash"),
        (FULL, BF16, True, 0.0, False, "efficient", "math"),
        (FULL, BF16, False, 0.1, False, "flash", "math"),
        ((2, HEADS, ROWS, 300), BF16, False, 0.0, False, "math", "flash"),
        ((2, HEADS, ROWS, 304), BF16, False, 0.0, False, "efficient", "flash"),
        ((HEADS, ROWS, WIDTH), BF16, False, 0.0, False, "math", "math"),
        (FULL, torch.float64, False, 0.0, False, "math", "flash"),
    ],
)
def test_the_kernel_follows_from_the_call(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    mask: bool,
    dropout: float,
    causal: bool,
    on_cuda: Kernel,
    on_cpu: Kernel,
) -> None:
    with FakeTensorMode():
        tensor = torch.empty(shape, dtype=dtype)
        learnt = torch.empty(SCORES, dtype=dtype, requires_grad=True) if mask else None
        call = Attention(tensor, tensor, tensor, learnt, dropout, causal)
        assert (kernel_of(call, "cuda"), kernel_of(call, "cpu")) == (on_cuda, on_cpu)
