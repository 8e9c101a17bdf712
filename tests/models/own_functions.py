"""A model that computes with autograd.Functions of its own, each in another way."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tests.models.opaque import VOCABULARY, Experts

WIDTH = 16


class Straight(torch.autograd.Function):
    """Rounds, and gives gradients on as they come."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0]


# As libraries keep it: under a name of their own, from before any trace.
kept = Straight.apply


class Reverse(torch.autograd.Function):
    """Its input, with a gradient that is turned round."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return -ctx.scale * gradients[0], None


class Best(torch.autograd.Function):
    """The largest values, and where they are, of which none has a gradient; and nothing."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, options: dict[str, int]) -> Any:
        values, places = x.topk(options["count"], -1)
        bound = x.detach().abs().amax(-1, keepdim=True)
        ctx.save_for_backward(places)
        ctx.mark_non_differentiable(places, bound)
        ctx.shape = x.shape
        return values, places, None, bound

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (places,) = ctx.saved_tensors
        return 3 * gradients[0].new_zeros(ctx.shape).scatter(-1, places, gradients[0]), None


class Arguments:
    """Functions may stand in a class."""

    class Reshaped(torch.autograd.Function):
        """Takes sizes, a tuple, a list, a dtype and a device."""

        @staticmethod
        def forward(
            x: torch.Tensor,
            size: torch.Size,
            axes: tuple[int, ...],
            weights: list[float],
            dtype: torch.dtype = torch.float32,
            device: Any = None,
        ) -> torch.Tensor:
            assert isinstance(size, torch.Size) and isinstance(axes, tuple)
            assert isinstance(weights, list) and x.device == torch.device(device)
            scaled = x.to(dtype) * torch.tensor(weights, dtype=dtype, device=device).mean()
            return scaled.flip(axes).view(size[0], *size[1:]).to(x.dtype)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
            ctx.axes = inputs[2]

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
            return gradients[0].flip(ctx.axes), None, None, None, None, None


class Noisy(torch.autograd.Function):
    """Draws in its forward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        noise = F.dropout(torch.rand_like(x), 0.5)
        ctx.save_for_backward(noise, x)
        return x + noise * weight

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        noise, x = ctx.saved_tensors
        return gradients[0] * x, (gradients[0] * noise).sum(0)


class Layer(nn.Module):
    """Rounds what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + Straight.apply(self.inner(x) * 4)


class Own(nn.Module):
    """All of them, and equal layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.weight = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.ones(WIDTH))
        self.layers = nn.ModuleList(Layer() for _ in range(6))
        self.last = nn.Linear(4, WIDTH)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        x = kept(Reverse.apply(torch.tanh(self.first(x)), 0.5) * 4)
        for layer in self.layers:
            x = layer(x)
        if self.training:
            x = Noisy.apply(x, self.weight)
        x = Arguments.Reshaped.apply(x, x.shape, (0, 1), [0.5, 1.5], torch.float64, x.device)
        values, places, _, bound = Best.apply(x, {"count": 4})
        return F.mse_loss(self.last(values / (bound + 1)) + places[:, :1], target)


def own() -> nn.Module:
    return Own()


def rows(microbatch: int) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(microbatch, WIDTH), "target": torch.randn(microbatch, WIDTH)}


class Routed(Layer):
    """A layer with experts behind it."""

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.moe = Experts(experts, counting=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = super().forward(x)
        return x + self.moe(x)["hidden"]


class Combined(nn.Module):
    """Experts that no graph can hold, Functions and choices by a value, side by side."""

    def __init__(self, experts: int, tied: bool, layers: int) -> None:
        super().__init__()
        self.embed, self.drop = nn.Embedding(VOCABULARY, WIDTH), nn.Dropout(0.1)
        self.layers = nn.ModuleList(Routed(experts) for _ in range(layers))
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        if tied:
            self.head.weight = self.embed.weight
            self.layers[0].moe.gate.weight = self.layers[-1].moe.gate.weight

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if labels.max() >= VOCABULARY:
            raise ValueError("a label is no token")
        x = Reverse.apply(self.drop(self.embed(ids)), 0.5)
        for layer in self.layers:
            x = layer(x)
        x = self.head(x)
        if ids.min() < 0:
            x = x.tanh()
        return F.cross_entropy(x.flatten(0, 1), labels.flatten())


def combined(experts: int, tied: bool = False, layers: int = 4) -> nn.Module:
    return Combined(experts, tied, layers)
