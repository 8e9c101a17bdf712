"""Matrix products of every kind, for schedules that compute gradients of weights later."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tests.models.numerics import WIDTH


class Products(nn.Module):
    """Products of some kinds in turn, between layers."""

    def __init__(self, *kinds: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        several = (kinds * 4)[: max(4, len(kinds))]
        self.products = nn.ModuleList(PRODUCTS[kind]() for kind in several)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        for layer, product in zip(self.layers, self.products, strict=True):
            x = x + product(torch.tanh(layer(x)))
        return F.mse_loss(x, target)


class Shared(Products):
    """The same product in every layer, so that every stage has it."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.products = nn.ModuleList([self.products[0]] * 4)


class _With(nn.Module):
    """A weight, a bias, and the product of a kind."""

    def __init__(self, function: Any, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH, dtype=dtype) / WIDTH)
        self.bias = nn.Parameter(torch.randn(WIDTH, dtype=dtype) / WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.function(x, self.weight, self.bias)
        return result


def _autocast(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        return F.linear(x, w, b).float()


def _frozen_part(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        gate = F.linear(x, w)
    return F.linear(x, w, b) * torch.sigmoid(gate)


def _frozen_weight() -> nn.Module:
    module = _With(F.linear)
    module.weight.requires_grad_(False)
    return module


def _convolution(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    # One sample without a batch dimension, as some audio models have it.
    return F.conv1d(x.t(), w[:, :, None], b).t()


PRODUCTS: dict[str, Any] = {
    "addmm": lambda: _With(lambda x, w, b: torch.addmm(b, x, w)),
    "addmm_rows": lambda: _With(lambda x, w, b: torch.addmm(x, torch.tanh(x), w)),
    "addmm_scaled": lambda: _With(lambda x, w, b: torch.addmm(b, x, w, beta=0.5, alpha=2.0)),
    "autocast": lambda: _With(_autocast),
    "bilinear": lambda: _With(lambda x, w, b: F.bilinear(x, x[:, :1], w[:, :, None], b)),
    "complex": lambda: _With(
        lambda x, w, b: F.linear(torch.complex(x, -x), w, b).abs(), torch.complex64
    ),
    "complex_addmm": lambda: _With(
        lambda x, w, b: torch.addmm(b, torch.complex(x, -x), w).imag, torch.complex64
    ),
    "complex_convolution": lambda: _With(
        lambda x, w, b: F.conv1d(torch.complex(x, -x)[:, :, None], w[:, :, None], b)[:, :, 0].real,
        torch.complex64,
    ),
    "convolution": lambda: _With(_convolution),
    "double_use": lambda: _With(lambda x, w, b: F.linear(torch.tanh(F.linear(x, w, b)), w)),
    "einsum": lambda: _With(
        lambda x, w, b: torch.einsum("bi,oi->bo", x, w) + torch.einsum("bi,i->b", x, b)[:, None]
    ),
    "expanded": lambda: _With(
        lambda x, w, b: torch.bmm(x[None], w.t()[None].expand(1, -1, -1))[0] + b
    ),
    "frozen_part": lambda: _With(_frozen_part),
    "frozen_weight": _frozen_weight,
    "linear": lambda: _With(F.linear),
    "matrix_of_vector": lambda: _With(lambda x, w, b: (x @ b)[:, None] * w.sum(0)),
    "of_ones": lambda: _With(lambda x, w, b: F.linear(torch.ones(WIDTH), w, b) + x),
    "same_weight_differently": lambda: _With(lambda x, w, b: F.linear(x, w, b) + x @ w + w.mean()),
    "transposed": lambda: _With(lambda x, w, b: F.linear(x, w.t(), b)),
    "vector": lambda: _With(lambda x, w, b: F.linear(x.mean(0), w, b) + x),
    "view": lambda: _With(lambda x, w, b: F.linear(x, w.view(2, -1, WIDTH).flatten(0, 1), b[:])),
    "without_bias": lambda: _With(lambda x, w, b: F.linear(x, w) * b),
}


def products(*kinds: str) -> nn.Module:
    return Products(*kinds)


def mixed() -> nn.Module:
    return Products("complex", "vector", "autocast", "double_use")


def shared(kind: str) -> nn.Module:
    return Shared(kind)


class OneView(nn.Module):
    """A view of a weight, computed once and used in every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH) / WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        turned = self.weight.t()
        for layer in self.layers:
            x = x + torch.tanh(layer(x)) @ turned
        return F.mse_loss(x, target)


def one_view() -> nn.Module:
    return OneView()
