"""Models that show what an export must keep, drop or refuse."""

import torch
import torch.nn.functional as F
from torch import nn

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


def vectors(microbatch: int) -> dict[str, torch.Tensor]:
    """Inputs of all of them."""
    return {"x": torch.randn(microbatch, WIDTH), "target": torch.randn(microbatch, WIDTH)}
