"""Models that show what an export must keep, drop or refuse."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.models.own_functions import Arguments, Best, Noisy, Reverse, Straight

WIDTH = 8


class Heads(nn.Module):
    """Two blocks joined by a skip, dropout between; predictions beside the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm, self.drop = nn.BatchNorm1d(WIDTH), nn.Dropout(0.5)
        # Two names of one tensor, used on both stages.
        self.again = self.enter

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss, and a name that is also an input's."""
        first = torch.tanh(self.norm(self.enter(x)))
        second = self.drop(torch.relu(self.leave(first)))
        result = self.again(second + first)
        return {"loss": F.mse_loss(result, target), "x": result, "first": first}


def heads() -> nn.Module:
    """Factory of a job."""
    return Heads()


class Drawing(nn.Module):
    """Draws in eval mode, too."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss and the result."""
        result = self.leave(torch.tanh(self.enter(x) + torch.rand_like(x)))
        return {"loss": F.mse_loss(result, target), "result": result}


def drawing() -> nn.Module:
    """Factory of a job."""
    return Drawing()


class Unwritable(nn.Module):
    """Uses an operator that ONNX has not."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss and the result."""
        result = self.leave(torch.special.bessel_j0(self.enter(x)))
        return {"loss": F.mse_loss(result, target), "result": result}


def unwritable() -> nn.Module:
    """Factory of a job."""
    return Unwritable()


class Functions(nn.Module):
    """Its autograd.Functions have a backward of their own, of which no inference knows."""

    def __init__(self, noise: bool) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.weight = nn.Parameter(torch.ones(WIDTH)) if noise else None

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss, the result, and where its largest values are."""
        x = Straight.apply(Reverse.apply(self.enter(x), 0.5) * 4)
        if self.weight is not None:
            x = Noisy.apply(x, self.weight)
        x = Arguments.Reshaped.apply(x, x.shape, (1,), [0.5, 1.5], torch.float64, x.device)
        result = self.leave(x)
        values, places, _, bound = Best.apply(result, {"count": 4})
        return {
            "loss": F.mse_loss(result, target) + (values / bound).mean(),
            "result": result,
            "places": places,
        }


def functions() -> nn.Module:
    """Factory of a job."""
    return Functions(False)


def noisy_functions() -> nn.Module:
    """Factory of a job."""
    return Functions(True)


def vectors(microbatch: int) -> dict[str, torch.Tensor]:
    """Inputs of all of them."""
    return {"x": torch.randn(microbatch, WIDTH), "target": torch.randn(microbatch, WIDTH)}
