"""Published configurations to compile, with the sizes of the models' own cards.

Nothing is materialised.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

TOKENS = 32_000


def gpt2_xl() -> nn.Module:
    """48 layers of 1,600."""
    from examples.gpt2 import build

    return build("xl")


def llama_8b() -> nn.Module:
    """32 layers of 4,096."""
    from examples.llama import build

    return build("8b")


def t5_11b() -> nn.Module:
    """24 + 24 layers of 1,024 with feed-forwards of 65,536."""
    from transformers import T5Config, T5ForConditionalGeneration

    shape = {
        "d_model": 1024,
        "d_ff": 65536,
        "d_kv": 128,
        "num_heads": 128,
        "num_layers": 24,
        "num_decoder_layers": 24,
    }
    return T5ForConditionalGeneration(
        T5Config(**shape, dropout_rate=0.0, use_cache=False, decoder_start_token_id=0)
    )


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

    shape = {
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "intermediate_size": 5120,
        "patch_size": 14,
    }
    return ViTForImageClassification(ViTConfig(**shape, image_size=224, num_labels=1000))


def whisper_large() -> nn.Module:
    """32 + 32 layers of 1,280."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    layers = {
        "encoder_layers": 32,
        "decoder_layers": 32,
        "encoder_attention_heads": 20,
        "decoder_attention_heads": 20,
    }
    shape = {"d_model": 1280, "encoder_ffn_dim": 5120, "decoder_ffn_dim": 5120}
    return WhisperForConditionalGeneration(
        WhisperConfig(**layers, **shape, vocab_size=51866, use_cache=False)
    )


def tokens(microbatch: int) -> dict[str, torch.Tensor]:
    """1,024 tokens a sample, with labels."""
    ids = torch.randint(0, TOKENS, (microbatch, 1024))
    return {"input_ids": ids, "labels": ids}


def images(microbatch: int) -> dict[str, torch.Tensor]:
    """224 x 224, with classes."""
    return {
        "pixel_values": torch.randn(microbatch, 3, 224, 224),
        "labels": torch.randint(0, 1000, (microbatch,)),
    }


def speech(microbatch: int) -> dict[str, torch.Tensor]:
    """30 seconds of 80 mel bands, 448 tokens."""
    return {
        "input_features": torch.randn(microbatch, 80, 3000),
        "labels": torch.randint(0, TOKENS, (microbatch, 448)),
    }


@dataclass(frozen=True)
class Configuration:
    """A row of the table of compiles: a job, a cluster of specs/, and their names for people.

    `job` is an example's file, or a factory and inputs of this module with the sizes of a job.
    """

    gpus: str
    cluster: str
    job: str | tuple[Callable[[], nn.Module], Callable[[int], dict[str, torch.Tensor]]]
    stages: int | None = None
    microbatch: int = 1


CONFIGURATIONS = {
    "GPT-2 XL": Configuration("4 x RTX 4090", "rtx-4090x4", (gpt2_xl, tokens), 4, 2),
    "Llama-3-8B": Configuration("8 x H100", "hgx-h100", (llama_8b, tokens), 8),
    "Llama-3-70B": Configuration("64 x H100, 16 stages of 4", "hgx-h100-x8", "llama-70b.yaml"),
    "Llama-3-405B": Configuration("128 x H200, 32 stages of 4", "hgx-h200-x16", "llama-405b.yaml"),
    "T5-11B": Configuration("8 x A100", "dgx-a100", (t5_11b, tokens), 8),
    "Mixtral-8x7B": Configuration("16 x H100", "hgx-h100-x2", (mixtral_8x7b, tokens), 16),
    "ViT-H": Configuration("8 x A10G", "aws-g5", (vit_h, images), 8, 16),
    "Whisper-large": Configuration("8 x A10G", "aws-g5", (whisper_large, speech), 8, 4),
}
