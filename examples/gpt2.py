"""GPT-2 in several sizes, from transformers' own class."""

import torch
from torch import nn

SIZES = {
    "tiny": {"n_layer": 4, "n_embd": 64, "n_head": 4, "vocab_size": 256, "n_positions": 64},
    "demo": {"n_layer": 6, "n_embd": 192, "n_head": 6, "vocab_size": 256, "n_positions": 128},
    "small": {"n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257, "n_positions": 1024},
    "xl": {"n_layer": 48, "n_embd": 1600, "n_head": 25, "vocab_size": 50257, "n_positions": 1024},
}


def build(size: str = "small", dropout: float = 0.0) -> nn.Module:
    """A GPT-2 with its head tied to the embedding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        **SIZES[size],
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
        loss_type="ForCausalLM",
    )
    return GPT2LMHeadModel(config)


def inputs(microbatch: int) -> dict[str, torch.Tensor]:
    """Random tokens, 64 a sample."""
    ids = torch.randint(0, 256, (microbatch, 64))
    return {"input_ids": ids, "labels": ids}
