"""A call of attention, read from arguments as torch takes them."""

import pytest
import torch

from pipecut.compiler.costs.attention import Attention, kernel_of

QUERY, KEY = torch.empty(2, 4, 8, 16), torch.empty(2, 4, 12, 16)
MASK = torch.empty(8, 12)


def test_arguments_may_be_keywords() -> None:
    by_position = Attention.of((QUERY, KEY, KEY, MASK, 0.5, True), {})
    by_name = Attention.of(
        (QUERY, KEY), {"value": KEY, "attn_mask": MASK, "dropout_p": 0.5, "is_causal": True}
    )
    assert by_position.mask is by_name.mask is MASK
    assert by_position.dropout == by_name.dropout == 0.5
    assert by_position.causal and by_name.causal


def test_what_is_left_out_is_torchs_default() -> None:
    call = Attention.of((QUERY, KEY, KEY), {})
    assert (call.mask, call.dropout, call.causal) == (None, 0.0, False)


def test_a_product_has_two_flops_for_each_score_and_feature() -> None:
    assert Attention(QUERY, KEY, KEY).product == 2 * 2 * 4 * 8 * 12 * 16


@pytest.mark.parametrize("causal", [False, True])
def test_flash_takes_causal_attention_of_equal_lengths_only(causal: bool) -> None:
    query, key = QUERY.bfloat16(), KEY.bfloat16()
    call = Attention(query, key, key, causal=causal)
    assert kernel_of(call, "cuda") == ("efficient" if causal else "flash")
