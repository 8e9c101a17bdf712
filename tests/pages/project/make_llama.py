"""Write llama/, a small model as save_pretrained does."""

from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=8,
    num_attention_heads=4,
    max_position_embeddings=2048,
)
LlamaForCausalLM(config).save_pretrained("llama")
