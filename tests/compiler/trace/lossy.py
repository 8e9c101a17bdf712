"""What a traced graph may lose without a word: a model for each kind of it."""

import random
from typing import Any

import numpy
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.models.own_functions import Straight

WIDTH = 8


class Lossy(nn.Module):
    """Two layers, and one of the methods below between them, as `kind` says."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.calls = kind, 0
        self.first, self.inner, self.last = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.register_buffer("mean", torch.zeros(WIDTH))
        if kind == "parameter_hook":
            calls = [1, 2]
            self.inner.weight.register_hook(lambda gradient: gradient * len(calls))
        if kind == "scripted":
            self.inner = torch.jit.script(self.inner)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        x = getattr(self, self.kind, self.plain)(torch.tanh(self.first(x)))
        return F.mse_loss(self.last(x), target)

    def plain(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)

    def autograd_function(self, x: torch.Tensor) -> torch.Tensor:
        return Straight.apply(self.inner(x) * 4)

    def tensor_hook(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inner(x)
        x.register_hook(lambda gradient: gradient * 2)
        return x

    def reentrant_checkpoint(self, x: torch.Tensor) -> Any:
        return checkpoint(lambda y: torch.tanh(self.inner(y)), x, use_reentrant=True)

    def linalg(self, x: torch.Tensor) -> torch.Tensor:
        q, r = torch.linalg.qr(self.inner(x).view(-1, 4, 2))
        return (q @ r).flatten(1)

    def python_random(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * random.random()

    def numpy_random(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * float(numpy.random.rand())

    def python_state(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.inner(x) * self.calls

    def assigned_buffer(self, x: torch.Tensor) -> torch.Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return self.inner(x) + self.mean

    def unused_parameter(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x).detach()

    def randomness(self, x: torch.Tensor) -> torch.Tensor:
        x = F.alpha_dropout(self.inner(x), 0.5, self.training) + F.rrelu(x, 0.1, 0.9, True)
        y = x[:, None].expand(-1, 4, -1)
        y = F.scaled_dot_product_attention(y, y, y, dropout_p=0.5)[:, 0]
        kept = y.new_empty(y.shape[0], 1).bernoulli_(0.5)
        noise = torch.empty_like(y).exponential_() + torch.randn_like(y) + torch.rand(WIDTH)
        noise = noise * nn.init.uniform_(torch.empty(WIDTH))
        order = torch.randperm(WIDTH)
        drawn = torch.multinomial(y.softmax(-1), 2)
        return F.gumbel_softmax(y * kept + noise, -1)[:, order] + drawn.sum(-1, keepdim=True)


def lossy(kind: str) -> nn.Module:
    return Lossy(kind)


def rows(microbatch: int) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(microbatch, WIDTH), "target": torch.randn(microbatch, WIDTH)}
