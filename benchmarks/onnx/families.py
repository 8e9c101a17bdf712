"""Small models of many families for `python -m benchmarks.onnx`; they return more than a loss."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

VOCABULARY, LENGTH, CLASSES = 512, 32, 10
TOKEN_IDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
# Layers, width, heads, and the width within a layer: what most families call so.
SHAPE = {
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}


def causal(kind: str, head: str = "ForCausalLM", **config: Any) -> nn.Module:
    """A language model of transformers, by the prefix of its classes."""
    import transformers

    made = getattr(transformers, f"{kind}Config")(
        vocab_size=VOCABULARY, use_cache=False, **TOKEN_IDS, **config
    )
    made._experts_implementation = "batched_mm"
    model: nn.Module = getattr(transformers, f"{kind}{head}")(made)
    return model


def gpt2() -> nn.Module:
    """Learned positions, head tied to the embedding; dropout, which eval mode leaves out."""
    return causal("GPT2", "LMHeadModel", n_layer=4, n_embd=64, n_head=4, n_positions=LENGTH)


def llama() -> nn.Module:
    """Rotary positions, grouped queries."""
    return causal("Llama", **SHAPE, num_key_value_heads=2)


def mixtral() -> nn.Module:
    """Four experts, of which a token takes two."""
    return causal(
        "Mixtral", **SHAPE, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2
    )


def mixtral_grouped() -> nn.Module:
    """The same with torch's grouped product of matrices."""
    model = mixtral()
    model.config._experts_implementation = "grouped_mm"  # type: ignore[union-attr]
    return model


def qwen3() -> nn.Module:
    """Norms of queries and keys."""
    return causal("Qwen3", **SHAPE, num_key_value_heads=2, head_dim=16)


def gemma2() -> nn.Module:
    """Sliding windows, soft caps of scores."""
    return causal("Gemma2", **SHAPE, num_key_value_heads=2, head_dim=16, sliding_window=8)


def mamba() -> nn.Module:
    """State spaces: a scan along the sequence."""
    return causal("Mamba", num_hidden_layers=3, hidden_size=32, state_size=8)


def rwkv() -> nn.Module:
    """Attention as a recurrence."""
    return causal("Rwkv", num_hidden_layers=3, hidden_size=32, context_length=LENGTH)


def bert() -> nn.Module:
    """An encoder with a masked language model's head."""
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(BertConfig(**SHAPE, vocab_size=VOCABULARY))


def t5() -> nn.Module:
    """Encoder and decoder with relative positions; three uses of one embedding."""
    from transformers import T5Config, T5ForConditionalGeneration

    shape = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_decoder_layers": 2}
    ids = {"decoder_start_token_id": 0, "pad_token_id": 0}
    return T5ForConditionalGeneration(
        T5Config(**shape, **ids, num_heads=4, vocab_size=VOCABULARY, use_cache=False)
    )


def whisper() -> nn.Module:
    """Speech: convolutions, an encoder, a decoder."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    layers = {"encoder_layers": 2, "decoder_layers": 2}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    shape = {"d_model": 64, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "num_mel_bins": 16}
    sizes = {"max_source_positions": 40, "max_target_positions": LENGTH, "vocab_size": VOCABULARY}
    ids = {**TOKEN_IDS, "decoder_start_token_id": 0}
    config = WhisperConfig(**layers, **heads, **shape, **sizes, **ids, use_cache=False)
    return WhisperForConditionalGeneration(config)


def vit() -> nn.Module:
    """Patches, an encoder, classes."""
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(**SHAPE, image_size=32, patch_size=8, num_labels=CLASSES)
    )


def resnet() -> nn.Module:
    """Residual blocks of convolutions and batch norms."""
    from transformers import ResNetConfig, ResNetForImageClassification

    shape = {"embedding_size": 16, "hidden_sizes": [16, 32, 64], "depths": [2, 2, 2]}
    return ResNetForImageClassification(
        ResNetConfig(**shape, layer_type="basic", num_labels=CLASSES)
    )


def convnext() -> nn.Module:
    """Depthwise convolutions, norms over channels."""
    from transformers import ConvNextConfig, ConvNextForImageClassification

    shape = {"hidden_sizes": [16, 32, 64], "depths": [2, 2, 2], "num_stages": 3}
    return ConvNextForImageClassification(ConvNextConfig(**shape, num_labels=CLASSES))


class UNet(nn.Module):
    """Two levels down and up, joined by skips."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(map(_block, (3, 16), (16, 32)))
        self.middle = _block(32, 64)
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, a // 2, 2, 2) for a in (64, 32))
        self.join = nn.ModuleList(map(_block, (64, 32), (32, 16)))
        self.out = nn.Conv2d(16, 3, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """A picture."""
        skips, x = [], image
        for down in self.down:
            x = down(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.middle(x)
        for up, join, skip in zip(self.up, self.join, reversed(skips), strict=True):
            x = join(torch.cat([up(x), skip], 1))
        return self.out(x)  # type: ignore[no-any-return]


def _block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(4, after), nn.SiLU(), nn.Dropout(0.1)
    )


def unet() -> nn.Module:
    """A U-Net."""
    return UNet()


def mlp() -> nn.Module:
    """Linear layers and batch norms."""
    layers: list[nn.Module] = []
    for _ in range(6):
        layers += [nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.1)]
    return nn.Sequential(*layers)


class Spectrum(nn.Module):
    """Layers that mix along the sequence by a Fourier transform, as FNet's."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The real part after each."""
        for layer in self.layers:
            input = input + layer(torch.fft.fft2(input).real)
        return input


def spectrum() -> nn.Module:
    """An FNet."""
    return Spectrum()


class Sequence(nn.Module):
    """Two layers of an LSTM with a linear one between."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = (nn.LSTM(64, 64, batch_first=True) for _ in range(2))
        self.between = nn.Linear(64, 64)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """What the last one gives at every step."""
        return self.two(torch.tanh(self.between(self.one(input)[0])))[0]  # type: ignore[no-any-return]


def lstm() -> nn.Module:
    """A recurrent network."""
    return Sequence()


class Diffusion(nn.Module):
    """Adds noise of its own in eval mode, too."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """What it makes of the noisy input."""
        return self.leave(torch.tanh(self.enter(input + torch.randn_like(input))))  # type: ignore[no-any-return]


def diffusion() -> nn.Module:
    """A model that draws."""
    return Diffusion()


def tokens(microbatch: int) -> dict[str, torch.Tensor]:
    """Tokens with labels."""
    ids = torch.randint(1, VOCABULARY, (microbatch, LENGTH))
    return {"input_ids": ids, "labels": ids}


def speech(microbatch: int) -> dict[str, torch.Tensor]:
    """Mel bands with labels."""
    labels = torch.randint(1, VOCABULARY, (microbatch, LENGTH))
    return {"input_features": torch.randn(microbatch, 16, 80), "labels": labels}


def images(microbatch: int) -> dict[str, torch.Tensor]:
    """Pictures with classes."""
    labels = torch.randint(0, CLASSES, (microbatch,))
    return {"pixel_values": torch.randn(microbatch, 3, 32, 32), "labels": labels}


def pictures(microbatch: int) -> dict[str, torch.Tensor]:
    """Pictures in and out."""
    return {
        "image": torch.randn(microbatch, 3, 32, 32),
        "target": torch.randn(microbatch, 3, 32, 32),
    }


def vectors(microbatch: int) -> dict[str, torch.Tensor]:
    """Rows in and out."""
    return {"input": torch.randn(microbatch, 64), "target": torch.randn(microbatch, 64)}


def rows(microbatch: int) -> dict[str, torch.Tensor]:
    """Sequences of rows in and out."""
    shape = (microbatch, 16, 64)
    return {"input": torch.randn(shape), "target": torch.randn(shape)}


def squared(output: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss of models that return their prediction."""
    return F.mse_loss(output, batch["target"])


# Name for people: factory, inputs, and a loss where the model returns none.
FAMILIES: dict[str, tuple[str, str, str | None]] = {
    "GPT-2": ("gpt2", "tokens", None),
    "Llama": ("llama", "tokens", None),
    "Qwen3": ("qwen3", "tokens", None),
    "Gemma 2": ("gemma2", "tokens", None),
    "Mixtral, batched products": ("mixtral", "tokens", None),
    "Mixtral, grouped products": ("mixtral_grouped", "tokens", None),
    "Mamba": ("mamba", "tokens", None),
    "RWKV": ("rwkv", "tokens", None),
    "BERT": ("bert", "tokens", None),
    "T5": ("t5", "tokens", None),
    "Whisper": ("whisper", "speech", None),
    "ViT": ("vit", "images", None),
    "ResNet": ("resnet", "images", None),
    "ConvNeXt": ("convnext", "images", None),
    "U-Net": ("unet", "pictures", "squared"),
    "MLP": ("mlp", "vectors", "squared"),
    "LSTM": ("lstm", "rows", "squared"),
    "FNet (Fourier transforms)": ("spectrum", "rows", "squared"),
    "noise in eval mode": ("diffusion", "rows", "squared"),
}
