"""Llama configurations, from transformers' own class.

The large ones are for compiling: nothing is materialised.
"""

import torch
from torch import nn

SIZES = {
    "tiny": {
        "num_hidden_layers": 4,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "vocab_size": 256,
    },
    "8b": {
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
    },
    "405b": {
        "num_hidden_layers": 126,
        "hidden_size": 16384,
        "intermediate_size": 53248,
        "num_attention_heads": 128,
    },
    "70b": {
        "num_hidden_layers": 80,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_attention_heads": 64,
    },
}
VOCABULARY = 128256
LENGTH = 2048


def build(size: str = "tiny") -> nn.Module:
    """Grouped-query attention as in Llama 3: eight key-value heads in the large ones."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {
        "vocab_size": VOCABULARY,
        "num_key_value_heads": 2 if size == "tiny" else 8,
        **SIZES[size],
    }
    return LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=8192, use_cache=False))


def inputs(microbatch: int) -> dict[str, torch.Tensor]:
    """Random tokens, 2,048 a sample."""
    ids = torch.randint(0, VOCABULARY, (microbatch, LENGTH))
    return {"input_ids": ids, "labels": ids}
