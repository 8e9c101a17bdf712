"""Models of the common families, so small that a step on two CPU ranks takes tenths of a second."""

from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from torch import nn

from pipecut.calibrate.calibrate import calibrate
from pipecut.compiler import profile_job

VOCABULARY, LENGTH = 2048, 128
MICROBATCHES = 4


def gpt2() -> nn.Module:
    """6 layers of 192 over 2,048 tokens, head tied to the embedding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = {
        "n_layer": 6,
        "n_embd": 192,
        "n_head": 6,
        "vocab_size": VOCABULARY,
        "n_positions": LENGTH,
    }
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(**shape, **dropout, use_cache=False, loss_type="ForCausalLM"))


def llama() -> nn.Module:
    """6 layers of 256, grouped queries."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {
        "num_hidden_layers": 6,
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    }
    return LlamaForCausalLM(LlamaConfig(**shape, vocab_size=VOCABULARY, use_cache=False))


def bert() -> nn.Module:
    """4 layers of 192 and a vocabulary of 16,384, whose head is much of the work."""
    from transformers import BertConfig, BertForMaskedLM

    shape = {
        "num_hidden_layers": 4,
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_attention_heads": 6,
        "vocab_size": 16384,
    }
    return BertForMaskedLM(
        BertConfig(**shape, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    )


def vit() -> nn.Module:
    """8 layers of 192, patches of 8 on 96 x 96."""
    from transformers import ViTConfig, ViTForImageClassification

    shape = {
        "hidden_size": 192,
        "num_hidden_layers": 8,
        "num_attention_heads": 6,
        "intermediate_size": 768,
        "patch_size": 8,
    }
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return ViTForImageClassification(ViTConfig(**shape, **dropout, image_size=96, num_labels=10))


class Residual(nn.Module):
    """Two convolutions beside a shortcut, as in ResNet-18."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.two = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(after), nn.BatchNorm2d(after)
        self.shortcut = (
            nn.Conv2d(before, after, 1, stride, bias=False)
            if stride > 1 or before != after
            else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Half the size where stride is 2."""
        inner = F.relu(self.norm1(self.one(x)))
        return F.relu(self.norm2(self.two(inner)) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet-18's layout at a third of its width, on 64 x 64 pixels.

    Early layers are slow, late layers hold the parameters.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        widths = [24, 24, 48, 96, 192]
        blocks = []
        for stage, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
            blocks += [Residual(before, after, 1 if stage == 0 else 2), Residual(after, after, 1)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(192, 10)

    def forward(self, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """The loss."""
        x = self.blocks(F.relu(self.stem(image)))
        return F.cross_entropy(self.head(x.mean((2, 3))), label)


class UNet(nn.Module):
    """Three levels down and up, joined by skips."""

    def __init__(self) -> None:
        super().__init__()
        widths = [16, 32, 64]
        self.down = nn.ModuleList(_double(a, b) for a, b in zip([3, *widths], widths, strict=False))
        self.middle = _double(64, 128)
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, a // 2, 2, 2) for a in (128, 64, 32))
        self.join = nn.ModuleList(_double(a, a // 2) for a in (128, 64, 32))
        self.out = nn.Conv2d(16, 3, 1)

    def forward(self, image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss."""
        skips, x = [], image
        for down in self.down:
            x = down(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.middle(x)
        for up, join, skip in zip(self.up, self.join, reversed(skips), strict=True):
            x = join(torch.cat([up(x), skip], 1))
        return F.mse_loss(self.out(x), target)


def _double(before: int, after: int) -> nn.Sequential:
    parts = [
        nn.Conv2d(before, after, 3, padding=1),
        nn.GroupNorm(4, after),
        nn.SiLU(),
        nn.Conv2d(after, after, 3, padding=1),
        nn.SiLU(),
    ]
    return nn.Sequential(*parts)


def resnet() -> nn.Module:
    """A ResNet."""
    return ResNet()


def unet() -> nn.Module:
    """A U-Net."""
    return UNet()


def tokens(microbatch: int) -> dict[str, torch.Tensor]:
    """128 tokens a sample."""
    ids = torch.randint(0, VOCABULARY, (microbatch, LENGTH))
    return {"input_ids": ids, "labels": ids}


def patches(microbatch: int) -> dict[str, torch.Tensor]:
    """96 x 96 with classes."""
    return {
        "pixel_values": torch.randn(microbatch, 3, 96, 96),
        "labels": torch.randint(0, 10, (microbatch,)),
    }


def images(microbatch: int) -> dict[str, torch.Tensor]:
    """64 x 64 with classes."""
    return {
        "image": torch.randn(microbatch, 3, 64, 64),
        "label": torch.randint(0, 10, (microbatch,)),
    }


def pictures(microbatch: int) -> dict[str, torch.Tensor]:
    """64 x 64 in and out."""
    return {
        "image": torch.randn(microbatch, 3, 64, 64),
        "target": torch.randn(microbatch, 3, 64, 64),
    }


# Name: factory, inputs, samples per microbatch.
SHAPES = {
    "GPT-2": ("gpt2", "tokens", 4),
    "Llama": ("llama", "tokens", 4),
    "BERT": ("bert", "tokens", 4),
    "ViT": ("vit", "patches", 4),
    "ResNet": ("resnet", "images", 8),
    "U-Net": ("unet", "pictures", 8),
}


def calibrated(folder: Path) -> str:
    """This machine as a cluster file of two ranks."""
    path = folder / "cluster.yaml"
    calibrate(2, "cpu", path)
    return str(path)


def profiled(name: str, folder: Path) -> tuple[Path, Path]:
    """A job file for one of the shapes, and a profile that has it."""
    factory, inputs, size = SHAPES[name]
    job, store = folder / f"{factory}.yaml", folder / "profile.sqlite"
    parts = {"factory": f"benchmarks.shapes:{factory}"}, f"benchmarks.shapes:{inputs}"
    batch = {"global": size * MICROBATCHES, "microbatch": size}
    job.write_text(yaml.safe_dump({"model": parts[0], "inputs": parts[1], "batch": batch}))
    profile_job(job, torch.device("cpu"), None, store, lambda *_: None, ranks=2)
    return job, store
