"""A generator that skips numbers goes on as if it had drawn them."""

import pytest
import torch

from pipecut.model.building.skip_draws import FEW_BLOCKS, WORDS, skip, words_of

# Within a block, over its end, many blocks one by one, and by a polynomial.
COUNTS = [0, 1, 623, 624, 625, 5000, WORDS * FEW_BLOCKS, WORDS * (FEW_BLOCKS + 1) + 1, 3_000_001]


@pytest.mark.parametrize("before", [0, 1, 623, 1000])
def test_skipping_is_drawing(before: int) -> None:
    with torch.random.fork_rng(devices=[]):
        for count in COUNTS:
            torch.manual_seed(7)
            torch.empty(before, dtype=torch.uint8).random_()
            begin = torch.get_rng_state()
            torch.empty(count, dtype=torch.uint8).random_()
            wanted = torch.get_rng_state()
            torch.set_rng_state(begin)
            skip(count)
            assert torch.equal(torch.get_rng_state(), wanted), count


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("draw", ["normal_", "uniform_"])
def test_draws_take_as_many_words_as_is_said(draw: str, dtype: torch.dtype) -> None:
    with torch.random.fork_rng(devices=[]):
        for size in (16, 17, 31, 32, 640, 641, 100_003):
            torch.manual_seed(7)
            begin = torch.get_rng_state()
            tensor = torch.empty(size, dtype=dtype)
            getattr(tensor, draw)()
            wanted = torch.get_rng_state()
            torch.set_rng_state(begin)
            words = words_of(draw, tensor)
            assert words is not None
            skip(words)
            assert torch.equal(torch.get_rng_state(), wanted), size


def test_what_is_drawn_one_by_one_is_not_known() -> None:
    assert words_of("normal_", torch.empty(15)) is None
    assert words_of("normal_", torch.empty(8, 8).t()[:, :5]) is None
    assert words_of("uniform_", torch.empty(8, dtype=torch.int64)) is None
