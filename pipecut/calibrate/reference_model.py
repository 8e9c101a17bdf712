"""What calibrate times: layers of the kinds that models are made of, which tell how far operators are from the roofline."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from torch import nn

from pipecut.compiler.costs.roofline import OTHER, cost
from pipecut.compiler.costs.work import measure_all
from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.operators.lookup import short_name
from pipecut.compiler.profile.job import profile_job
from pipecut.compiler.profile.profile import ProfileProgress
from pipecut.compiler.profile.scaled import measured_seconds
from pipecut.compiler.trace.trace import trace
from pipecut.device.types import type_of


@dataclass(frozen=True)
class Scale:
    """Sizes of the layers: channels and heads of tokens, tokens a sample, words, samples, channels and side of images."""

    width: int
    heads: int
    length: int
    vocabulary: int
    microbatch: int
    channels: int
    side: int


# A GPU reaches its rates on products of thousands; a CPU's core takes seconds for them.
CORE_SCALE = Scale(256, 8, 128, 4096, 4, 24, 64)
GPU_SCALE = Scale(4096, 32, 1024, 32768, 4, 64, 224)


def scale_of(device_type: str) -> Scale:
    """The sizes for a type of device."""
    return CORE_SCALE if type_of(device_type).of_host else GPU_SCALE


class Attention(nn.Module):
    """A layer as in GPT-2: products by addmm, a tanh approximation of gelu."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.scale, width = scale, scale.width
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up = nn.Parameter(torch.empty(width, 4 * width))
        self.bias = nn.Parameter(torch.empty(4 * width))
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, length, width), as given."""
        width, heads, length = self.scale.width, self.scale.heads, self.scale.length
        parts = self.qkv(self.norm1(x)).split(width, 2)
        q, k, v = (t.view(-1, length, heads, width // heads).transpose(1, 2) for t in parts)
        x = x + self.out(
            F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        )
        inner = torch.addmm(self.bias, self.norm2(x).flatten(0, 1), self.up).view(
            -1, length, 4 * width
        )
        inner = 0.5 * inner * (1 + torch.tanh(0.8 * (inner + 0.04 * torch.pow(inner, 3))))
        result: torch.Tensor = x + self.down(inner)
        return result


class Gated(nn.Module):
    """A layer as in Llama: the root mean square by hand, rotated halves, a gate."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        width = scale.width
        self.scale = nn.Parameter(torch.empty(width))
        self.gate, self.up = (
            nn.Linear(width, 3 * width, bias=False),
            nn.Linear(width, 3 * width, bias=False),
        )
        self.down = nn.Linear(3 * width, width, bias=False)
        self.first = nn.Linear(width, 4 * width)
        self.last = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, length, width), as given."""
        x = self.scale * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        half = x.shape[-1] // 2
        x = x + torch.cat([-x[..., half:], x[..., :half]], -1)
        x = x + self.down(F.silu(self.gate(x)) * self.up(x))
        result: torch.Tensor = x + self.last(F.gelu(self.first(x)))
        return result


class Residual(nn.Module):
    """Convolutions with batch normalisation beside a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.two = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(after), nn.BatchNorm2d(after)
        self.shortcut = nn.Conv2d(before, after, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, before, side, side) to (batch, after, side / stride, side / stride)."""
        return F.relu(self.norm2(self.two(F.relu(self.norm1(self.one(x))))) + self.shortcut(x))


class Around(nn.Module):
    """Half the size and back, as in a U-Net."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, width), nn.GroupNorm(4, width)
        self.inner, self.join = (
            nn.Conv2d(width, width, 3, padding=1),
            nn.Conv2d(2 * width, width, 3, padding=1),
        )
        self.up = nn.ConvTranspose2d(width, width, 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, width, side, side), as given."""
        inner = self.inner(F.max_pool2d(F.silu(self.norm1(x)), 2))
        result: torch.Tensor = self.join(torch.cat([self.up(inner), F.silu(self.norm2(x))], 1))
        return result


class ReferenceModel(nn.Module):
    """Tokens through layers of two kinds, images through layers of two others; both losses."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        c = scale.channels
        self.embedding = nn.Embedding(scale.vocabulary, scale.width)
        self.tokens = nn.ModuleList(
            [Attention(scale), Gated(scale), Attention(scale), Gated(scale)]
        )
        self.head = nn.Linear(scale.width, scale.vocabulary)
        layers = [
            Residual(3, c, 1),
            Around(c),
            Residual(c, 2 * c, 2),
            Around(2 * c),
            Residual(2 * c, 4 * c, 2),
        ]
        self.images = nn.ModuleList(layers)

    def forward(self, tokens: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """The sum of the losses."""
        x, y = self.embedding(tokens), images
        for layer in self.tokens:
            x = layer(x)
        for layer in self.images:
            y = layer(y)
        return F.cross_entropy(self.head(x).flatten(0, 1), tokens.flatten()) + y.mean()


def build(device: str) -> nn.Module:
    """The model, of a size for a kind of device."""
    return ReferenceModel(scale_of(device))


def inputs(microbatch: int) -> dict[str, torch.Tensor]:
    """Tokens and an image a sample, of a CPU's size."""
    return _inputs(CORE_SCALE, microbatch)


def gpu_inputs(microbatch: int) -> dict[str, torch.Tensor]:
    """Tokens and an image a sample, of a GPU's size."""
    return _inputs(GPU_SCALE, microbatch)


def _inputs(scale: Scale, microbatch: int) -> dict[str, torch.Tensor]:
    tokens = torch.randint(0, scale.vocabulary, (microbatch, scale.length))
    return {"tokens": tokens, "images": torch.randn(microbatch, 3, scale.side, scale.side)}


@dataclass(frozen=True)
class _Sum:
    """Seconds forward and backward."""

    forward: float = 0.0
    backward: float = 0.0

    def __add__(self, other: tuple[float, float]) -> "_Sum":
        return _Sum(self.forward + other[0], self.backward + other[1])


def reached(
    cluster: Cluster, device: torch.device, ranks: int, folder: Path, progress: ProfileProgress
) -> dict[str, tuple[float, float]]:
    """By operator, the roofline's seconds over measured ones, forward and backward, with `ranks` at work; OTHER for the rest.

    The devices of the cluster are of this machine's kind. Scratch files go to the folder.
    """
    job, store = folder / "yardstick.yaml", folder / "yardstick.sqlite"
    microbatch = scale_of(device.type).microbatch
    text = {
        "model": {"factory": f"{__name__}:build", "args": {"device": device.type}},
        "inputs": f"{__name__}:{'inputs' if type_of(device).of_host else 'gpu_inputs'}",
        "batch": {"global": microbatch, "microbatch": microbatch},
    }
    job.write_text(yaml.safe_dump(text), encoding="utf-8")
    profile_job(job, device, None, store, progress, ranks)
    graph, kind = trace(read_job(job)), cluster.devices[0].kind
    rough = cost(graph, cluster, "fp32", microbatch).costs
    real = measured_seconds(graph, microbatch, [kind], store)[kind]
    rooflines: dict[str, _Sum] = {}
    seconds: dict[str, _Sum] = {}
    works = measure_all(graph, microbatch, device.type)
    for operator, one, measured, work in zip(graph.operators, rough, real, works, strict=True):
        if one.forward[kind] == 0:
            continue
        for name in (short_name(operator.target), *([] if work.forward_flops else [OTHER])):
            rooflines[name] = rooflines.get(name, _Sum()) + (one.forward[kind], one.backward[kind])
            seconds[name] = seconds.get(name, _Sum()) + measured
    sums = [(name, one, seconds[name]) for name, one in sorted(rooflines.items())]
    return {
        name: (_part(a.forward, b.forward), _part(a.backward, b.backward)) for name, a, b in sums
    }


def _part(roofline: float, measured: float) -> float:
    return roofline / measured if roofline > 0 and measured > 0 else 1.0
