"""The model that calibrate times: layers of the kinds that models are made of.

They tell how far operators are from the roofline.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from pipecut.device.types import type_of


@dataclass(frozen=True)
class Scale:
    """Sizes of the layers.

    Of tokens: channels, heads, tokens per sample and words. Samples per microbatch. Of images:
    channels and side.
    """

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
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(after), nn.BatchNorm2d(after)
        self.shortcut = nn.Conv2d(before, after, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, before, side, side) to (batch, after, side / stride, side / stride)."""
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))) + self.shortcut(x))


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
    """Tokens and an image per sample, of a size for a CPU."""
    return _inputs(CORE_SCALE, microbatch)


def gpu_inputs(microbatch: int) -> dict[str, torch.Tensor]:
    """Tokens and an image per sample, of a size for a GPU."""
    return _inputs(GPU_SCALE, microbatch)


def _inputs(scale: Scale, microbatch: int) -> dict[str, torch.Tensor]:
    tokens = torch.randint(0, scale.vocabulary, (microbatch, scale.length))
    return {"tokens": tokens, "images": torch.randn(microbatch, 3, scale.side, scale.side)}
