"""Published configurations to compile: nothing is materialised. Sizes are those of the models' own cards."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

TOKENS = 32_000


def gpt2_xl() -> nn.Module:
    """48 layers of 1,600."""
    from examples.gpt2 import build

    return build("xl")


def llama(size: str) -> nn.Module:
    """Llama-3-8B, 70B or 405B."""
    from examples.llama import build

    return build(size)


def t5_11b() -> nn.Module:
    """24 + 24 layers of 1,024 with feed-forwards of 65,536."""
    from transformers import T5Config, T5ForConditionalGeneration

    shape = {"d_model": 1024, "d_ff": 65536, "d_kv": 128, "num_heads": 128, "num_layers": 24, "num_decoder_layers": 24}
    return T5ForConditionalGeneration(T5Config(**shape, dropout_rate=0.0, use_cache=False, decoder_start_token_id=0))


def mixtral_8x7b() -> nn.Module:
    """32 layers of 8 experts, of which a token takes 2."""
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        num_hidden_layers=32,
        hidden_size=4096,
        intermediate_size=14336,
        num_attention_heads=32,
        num_key_value_heads=8,
        num_local_experts=8,
        num_experts_per_tok=2,
        vocab_size=TOKENS,
        use_cache=False,
    )
    # torch's own operator; batched_mm copies the weights for every token.
    config._experts_implementation = "grouped_mm"
    return MixtralForCausalLM(config)


def vit_h() -> nn.Module:
    """ViT-H/14: 32 layers of 1,280."""
    from transformers import ViTConfig, ViTForImageClassification

    shape = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "intermediate_size": 5120, "patch_size": 14}
    return ViTForImageClassification(ViTConfig(**shape, image_size=224, num_labels=1000))


def whisper_large() -> nn.Module:
    """32 + 32 layers of 1,280."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    layers = {"encoder_layers": 32, "decoder_layers": 32, "encoder_attention_heads": 20, "decoder_attention_heads": 20}
    shape = {"d_model": 1280, "encoder_ffn_dim": 5120, "decoder_ffn_dim": 5120}
    return WhisperForConditionalGeneration(WhisperConfig(**layers, **shape, vocab_size=51866, use_cache=False))


def tokens(microbatch: int) -> dict[str, torch.Tensor]:
    """1,024 tokens a sample, with labels."""
    ids = torch.randint(0, TOKENS, (microbatch, 1024))
    return {"input_ids": ids, "labels": ids}


def images(microbatch: int) -> dict[str, torch.Tensor]:
    """224 x 224, with classes."""
    return {"pixel_values": torch.randn(microbatch, 3, 224, 224), "labels": torch.randint(0, 1000, (microbatch,))}


def speech(microbatch: int) -> dict[str, torch.Tensor]:
    """30 seconds of 80 mel bands, 448 tokens."""
    return {"input_features": torch.randn(microbatch, 80, 3000), "labels": torch.randint(0, TOKENS, (microbatch, 448))}


# Name: factory, arguments, inputs, cluster, stages, microbatch.
MODELS: dict[str, tuple[Callable[..., nn.Module], dict[str, Any], Callable[[int], dict[str, torch.Tensor]], str, int, int]] = {
    "GPT-2 XL": (gpt2_xl, {}, tokens, "rtx-4090x4", 4, 2),
    "Llama-3-8B": (llama, {"size": "8b"}, tokens, "hgx-h100", 8, 1),
    "Llama-3-70B": (llama, {"size": "70b"}, tokens, "hgx-h100-x2", 16, 1),
    "Llama-3-405B": (llama, {"size": "405b"}, tokens, "hgx-h200-x4", 32, 1),
    "T5-11B": (t5_11b, {}, tokens, "dgx-a100", 8, 1),
    "Mixtral-8x7B": (mixtral_8x7b, {}, tokens, "hgx-h100-x2", 16, 1),
    "ViT-H": (vit_h, {}, images, "aws-g5", 8, 16),
    "Whisper-large": (whisper_large, {}, speech, "aws-g5", 8, 4),
}
