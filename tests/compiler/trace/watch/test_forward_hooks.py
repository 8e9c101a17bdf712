"""Forward hooks that a model installs when it first runs are there once in each trace."""

from typing import Any

import torch
from torch import nn

from pipecut.compiler.trace.watch.forward_hooks import forward_hooks_kept


class Collecting(nn.Module):
    """Returns what its layers gave, which hooks collect from the first call on."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
        self.hooked = False

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        if not self.hooked:
            for layer in self.layers:
                layer.register_forward_hook(self.collect)
            self.hooked = True
        self.results: list[torch.Tensor] = []
        for layer in self.layers:
            x = layer(x)
        return self.results

    def collect(self, module: nn.Module, args: Any, result: torch.Tensor) -> None:
        self.results.append(result)


def test_a_second_trace_collects_no_more_than_the_first() -> None:
    model, x = Collecting(), torch.ones(1, 2)
    with forward_hooks_kept(model):
        results = model(x)
    # As torch.export does.
    model.hooked = False
    with forward_hooks_kept(model):
        again = model(x)
    assert len(results) == len(again) == 3 and all(map(torch.equal, results, again))


def test_hooks_from_before_stay() -> None:
    model = Collecting()
    model(torch.ones(1, 2))
    with forward_hooks_kept(model):
        model.layers[0].register_forward_pre_hook(lambda *_: None)
    assert [len(layer._forward_hooks) for layer in model.layers] == [1, 1, 1]
    assert not model.layers[0]._forward_pre_hooks and len(model(torch.ones(1, 2))) == 3
