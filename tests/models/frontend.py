"""Models whose batches, names and shapes a compiler may take wrongly."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

WIDTH = 8


def layers(count: int = 4) -> nn.Sequential:
    return nn.Sequential(*[nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(count)])


class Operators(nn.Module):
    """Inputs named like operators, like names of the stage file, or not as identifiers are."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = layers()
        self.norm = nn.BatchNorm1d(WIDTH)

    def forward(
        self, mul: torch.Tensor, norm: torch.Tensor, sub: torch.Tensor, **more_inputs: torch.Tensor
    ) -> torch.Tensor:
        hidden = self.norm(self.layers(mul * norm)) * 2
        hidden = hidden - more_inputs["X"] * more_inputs["x.y"] + more_inputs["x_y"] - sub
        return (hidden * more_inputs['"; import os\n\\']).norm()


def operators() -> nn.Module:
    return Operators()


def operators_inputs(microbatch: int) -> dict[str, torch.Tensor]:
    names = ("mul", "norm", "sub", "X", "x.y", "x_y", '"; import os\n\\', "self.torch")
    return {name: torch.randn(microbatch, WIDTH) for name in names}


class Names(nn.Module):
    """Modules, parameters and buffers whose names end strings, lines and docstrings."""

    def __init__(self) -> None:
        super().__init__()
        self.bad = '"""\nraise SystemExit("ran")\n\\'
        self.add_module(self.bad, layers(2))
        self.register_parameter("__x", nn.Parameter(torch.rand(WIDTH)))
        self.register_parameter("ﬁ²", nn.Parameter(torch.rand(WIDTH)))
        self.register_buffer('b"\n', torch.rand(WIDTH))
        self.register_buffer("{0}", torch.rand(WIDTH))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.get_submodule(self.bad)(x) * getattr(self, "__x") * getattr(self, "ﬁ²")
        result = hidden + getattr(self, 'b"\n') * getattr(self, "{0}")
        return {"loss": result.square().mean(), 'out"\n': result}


def names() -> nn.Module:
    return Names()


def one_input(microbatch: int) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(microbatch, WIDTH)}


class Whole(nn.Module):
    """A table, two masks and a number beside what is split; two flags and None."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = layers()

    def forward(
        self,
        x: torch.Tensor,
        table: torch.Tensor,
        mask: torch.Tensor,
        pairs: torch.Tensor,
        temperature: torch.Tensor,
        causal: bool,
        power: int,
        kind: str,
        nothing: torch.Tensor | None,
    ) -> torch.Tensor:
        assert nothing is None and kind == "mean"
        hidden = self.layers(x + table.mean(0))
        scores = hidden[:, :, None] * hidden[:, None, :]
        scores = scores.masked_fill(mask, 0.0) + pairs
        return ((scores.tril() if causal else scores) / temperature).pow(power).mean()


def whole() -> nn.Module:
    return Whole()


def whole_inputs(microbatch: int) -> dict[str, Any]:
    return {
        # As long as a microbatch, and as the global batch.
        "table": torch.randn(2, WIDTH),
        "pairs": torch.randn(8, WIDTH),
        "x": torch.randn(microbatch, WIDTH),
        "mask": torch.rand(1, WIDTH, WIDTH) < 0.5,
        "temperature": torch.tensor(0.7),
        "causal": True,
        "power": 2,
        "kind": "mean",
        "nothing": None,
    }


class InPlace(nn.Module):
    """Changes its inputs, before and after they were used, and through a view."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = layers()

    def forward(self, x: torch.Tensor, labels: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        hidden = self.layers(x * scale)
        x += 1
        scale[0] *= 2
        labels[x[:, 0] > 1.8] = -100
        return F.cross_entropy(self.layers(hidden * x * scale), labels)


def in_place() -> nn.Module:
    return InPlace()


def in_place_inputs(microbatch: int) -> dict[str, torch.Tensor]:
    labels = torch.randint(0, WIDTH, (microbatch,))
    return {"x": torch.randn(microbatch, WIDTH), "labels": labels, "scale": torch.rand(WIDTH)}


class Fixed(nn.Module):
    """Uses its batch size as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = layers()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.layers(x)
        rows = torch.stack([hidden[i] for i in range(len(hidden))])
        return (rows.sum(0) / len(hidden)).square().mean()


def fixed() -> nn.Module:
    return Fixed()


class Halved(nn.Module):
    """Divides by a number made of its batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = layers()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).square().sum() / (0.5 * x.shape[0])


def halved() -> nn.Module:
    return Halved()


class NoLabels(nn.Module):
    """Returns outputs alone; its loss is a function of the job."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = layers()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def no_labels() -> nn.Module:
    return NoLabels()


def labelled(microbatch: int) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(microbatch, WIDTH), "labels": torch.randint(0, WIDTH, (microbatch,))}


def class_loss(output: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return F.cross_entropy(output, batch["labels"])


class Alone(nn.Module):
    """Does something else with a batch of one sample."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = layers()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * 3 if x.shape[0] == 1 else x / max(x.shape[0], 1)
        return self.layers(x).square().mean()


def alone() -> nn.Module:
    return Alone()


class Measured(nn.Module):
    """Reads its parameters while built; draws tensors that are no buffers; has a lazy layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = layers()
        self.lazy = nn.LazyLinear(WIDTH)
        self.noise = torch.randn(WIDTH)
        self.tables = [torch.rand(WIDTH), torch.rand(WIDTH)]
        self.last = nn.Linear(WIDTH, WIDTH)
        nn.init.orthogonal_(self.last.weight)
        self.last.weight.data /= self.last.weight.abs().max().item()
        self.lazy(torch.zeros(1, WIDTH))
        nn.utils.parametrizations.orthogonal(self.last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.lazy(self.layers(x * self.noise) + self.tables[0])
        return (self.last(torch.tanh(hidden)) - self.tables[1]).square().mean()


def measured() -> nn.Module:
    return Measured()


class Drawn(nn.Module):
    """Draws tensors that are no buffers after its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = layers()
        self.noise = torch.randn(WIDTH)
        self.tables = {"a": (torch.rand(WIDTH), 1)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.layers(x * self.noise) - self.tables["a"][0]).square().mean()


def drawn() -> nn.Module:
    return Drawn()


class Sliced(nn.Module):
    """Results written into slices of zeros, with views made before and after the writes."""

    def __init__(self) -> None:
        super().__init__()
        self.halves = nn.ModuleList(nn.Linear(WIDTH, WIDTH // 2) for _ in range(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for first, second in zip(self.halves[::2], self.halves[1::2], strict=True):
            out = torch.zeros_like(x)
            turned = out.t()
            kept = out.detach()
            out[:, : WIDTH // 2] = torch.tanh(first(x))
            out[:, WIDTH // 2 :] = torch.tanh(second(x))
            x = turned.t() + out.view(-1, WIDTH) + kept
        return x.square().mean()


def sliced() -> nn.Module:
    return Sliced()


class SlicedAndWeighed(Sliced):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + self.halves[0].weight.square().sum()


def sliced_and_weighed() -> nn.Module:
    return SlicedAndWeighed()


class Unannotated(nn.Module):
    """Writes to results of operators that share storage although their schemas do not say so."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for number, layer in enumerate(self.layers):
            x = torch.tanh(layer(x)) * 1.0
            if number == 0:
                torch.einsum("bi->ib", x).mul_(2.0)
            elif number == 1:
                torch.atleast_3d(x).mul_(2.0)
            elif number == 2:
                F.dropout2d(x[:, :, None, None], 0.5, False).mul_(2.0)
            elif number == 3:
                torch.cartesian_prod(x.view(-1)).mul_(2.0)
        return x.square().mean()


def unannotated() -> nn.Module:
    return Unannotated()
