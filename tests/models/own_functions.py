"""A model that computes with autograd.Functions of its own, each in another way."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

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
