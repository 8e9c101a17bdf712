"""The model that the pages call mymodel: eight equal layers between an embedding and a head."""

import torch
from torch import nn
from torch.nn import functional as F

VOCABULARY, LENGTH = 64, 8


class Layer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Model(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.layers = nn.ModuleList(Layer(width) for _ in range(8))
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, input_ids, labels):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        logits = self.head(x)
        return {"loss": F.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


def build(width=512):
    return Model(width)


def inputs(microbatch):
    text = torch.randint(0, VOCABULARY, (microbatch, LENGTH + 1))
    return {"input_ids": text[:, :-1].contiguous(), "labels": text[:, 1:].contiguous()}


def batches(count=8, size=64):
    for step in range(count):
        generator = torch.Generator().manual_seed(step)
        text = torch.randint(0, VOCABULARY, (size, LENGTH + 1), generator=generator)
        yield {"input_ids": text[:, :-1].contiguous(), "labels": text[:, 1:].contiguous()}


def validation():
    return batches(count=2, size=24)
