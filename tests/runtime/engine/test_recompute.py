"""A forward that runs twice gives what one that runs once does, and leaves nothing behind."""

import pytest
import torch
from torch import nn

from pipecut.errors import RunError
from pipecut.runtime.engine import recompute

CPU = torch.device("cpu")


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(8, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Dropout(0.5)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layers(x)
        return result


def step(module: nn.Module, x: torch.Tensor, twice: bool) -> list[torch.Tensor]:
    """Two microbatches forward, then backward: gradients, buffers and the next random number."""
    torch.manual_seed(3)
    changing = [name for name, _ in module.named_buffers()]
    if twice:
        notes = []
        for _ in range(2):
            notes.append(recompute.capture(module, CPU, changing))
            with torch.no_grad():
                module(x)
        after = [buffer.clone() for buffer in module.buffers()]
        following = torch.rand(3)
        for before in notes:
            with recompute.replaying(module, CPU, before):
                module(x).square().sum().backward()
        assert all(torch.equal(a, b) for a, b in zip(after, module.buffers(), strict=True))
    else:
        results = [module(x).square().sum() for _ in range(2)]
        following = torch.rand(3)
        for result in results:
            result.backward()
    return [
        following,
        *(p.grad for p in module.parameters() if p.grad is not None),
        *module.buffers(),
    ]


def test_dropout_and_buffers_are_those_of_the_first_forward() -> None:
    torch.manual_seed(0)
    first, second = Noisy(), Noisy()
    second.load_state_dict(first.state_dict())
    x = torch.randn(16, 8)
    for once, twice in zip(step(first, x, twice=False), step(second, x, twice=True), strict=True):
        assert torch.equal(once, twice)


def test_random_numbers_go_on_from_where_they_were() -> None:
    module = Noisy()
    before = recompute.capture(module, CPU, [])
    state = torch.get_rng_state()
    with recompute.replaying(module, CPU, before):
        torch.rand(5)
    assert torch.equal(state, torch.get_rng_state())


def test_a_stage_that_writes_to_its_inputs_is_refused() -> None:
    x = torch.zeros(3)
    version = x._version
    x.add_(1)
    with pytest.raises(RunError, match="recompute: never"):
        recompute.check_untouched([x], [version])
