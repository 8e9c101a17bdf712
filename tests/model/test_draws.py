"""Every random draw belongs to its place in the model, the step and the microbatch."""

import time

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from pipecut.model.draws import CountDraws, Draws, StageDraws
from tests.models.numerics import KINDS, WIDTH

X = torch.linspace(-1, 1, 4 * WIDTH).view(4, WIDTH)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"unused"}))
def test_a_draw_is_fixed_by_seed_step_microbatch_and_place(kind: str) -> None:
    layer = KINDS[kind]
    with Draws(0).at(1, 0):
        first, second = layer(X), layer(X)
    torch.rand(7)
    with StageDraws(0, [1]).at(1, 0):
        assert torch.equal(layer(X), second)
    with StageDraws(0, [0]).at(1, 0):
        assert torch.equal(layer(X), first)
    assert not torch.equal(first, second)
    for seed, step, microbatch in ((1, 1, 0), (0, 2, 0), (0, 1, 1)):
        with StageDraws(seed, [0]).at(step, microbatch):
            assert not torch.equal(layer(X), first)


@torch.library.custom_op("tests_draws::noise", mutates_args=())
def noise(x: torch.Tensor) -> torch.Tensor:
    return x + torch.randn_like(x)


def test_an_operator_of_another_library_draws_by_its_place() -> None:
    with Draws(0).at(1, 0):
        first, second = noise(X), noise(X)
    with StageDraws(0, [1]).at(1, 0):
        assert torch.equal(torch.ops.tests_draws.noise.default(X), second)
    assert not torch.equal(first, second)


def test_generators_go_on_from_where_they_were() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    for mode in (Draws(0), StageDraws(0, [0])):
        with mode:
            F.dropout(X, 0.5)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_a_checkpoint_runs_again_draws_what_it_drew(reentrant: bool) -> None:
    def layer(x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x.exp(), 0.5) * torch.rand_like(x)

    def gradient(recompute: bool) -> torch.Tensor:
        x = X.clone().requires_grad_()
        with Draws(0).at(1, 0):
            y = F.dropout(x, 0.5)
            for _ in range(2):
                y = checkpoint(layer, y, use_reentrant=reentrant) if recompute else layer(y)
            F.dropout(y, 0.5).square().sum().backward()
        assert x.grad is not None
        return x.grad

    assert torch.equal(gradient(True), gradient(False))


def test_attention_and_evaluation_draw_only_where_they_drop() -> None:
    heads = X.view(2, 2, 4, -1)
    with CountDraws() as counted:
        F.scaled_dot_product_attention(heads, heads, heads)
        F.dropout(X, 0.5, training=False)
        F.dropout(X, 0.0)
        assert counted.count == 0
        F.scaled_dot_product_attention(heads, heads, heads, dropout_p=0.5)
    assert counted.count == 1


def test_seeding_a_draw_takes_microseconds() -> None:
    x, mode = torch.ones(4), StageDraws(0, range(1000))
    with mode.at(1, 0):
        begin = time.perf_counter()
        for _ in range(500):
            F.dropout(x, 0.5)
        taken = (time.perf_counter() - begin) / 500
    # About 35 microseconds here; torch.manual_seed alone took 100 to 600.
    assert taken < 5e-4


def test_all_that_an_opaque_module_draws_is_one_draw() -> None:
    def run(inner: int, mode: Draws) -> list[torch.Tensor]:
        drawn = [torch.rand(3)]
        mode.begin_opaque()
        drawn += [torch.rand(3) for _ in range(inner)]
        mode.end_opaque()
        return [*drawn, torch.rand(3)]

    with Draws(0).at(1, 0) as mode:
        thrice = run(3, mode)
    with Draws(0).at(1, 0) as mode:
        once = run(1, mode)
    assert all(map(torch.equal, once, [*thrice[:2], thrice[-1]]))
    # A stage that has the module alone: it is the model's second draw.
    with StageDraws(0, [1, 2]).at(1, 0) as stage:
        stage.draws.begin_opaque()
        inner = [torch.rand(3), torch.rand(3)]
        stage.draws.end_opaque()
        assert torch.equal(torch.rand(3), thrice[-1])
    assert all(map(torch.equal, inner, thrice[1:3]))
