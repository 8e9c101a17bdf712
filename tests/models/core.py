"""Tiny configurations of the model families that every plan must compute exactly."""

import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

LENGTH = 16
VOCABULARY = 64


def tokens(microbatch: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, VOCABULARY, (microbatch, LENGTH))
    return {"input_ids": ids, "labels": ids.clone()}


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    drop = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(
        GPT2Config(
            n_layer=4,
            n_embd=32,
            n_head=2,
            vocab_size=VOCABULARY,
            n_positions=32,
            use_cache=False,
            **drop,
            **ids,
        )
    )


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            num_hidden_layers=4,
            hidden_size=32,
            intermediate_size=64,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=VOCABULARY,
            use_cache=False,
        )
    )


def mixtral() -> nn.Module:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        num_hidden_layers=4,
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        vocab_size=VOCABULARY,
        use_cache=False,
    )
    config._experts_implementation = "batched_mm"
    return MixtralForCausalLM(config)


def bert() -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(
        BertConfig(
            num_hidden_layers=4,
            hidden_size=32,
            intermediate_size=64,
            num_attention_heads=4,
            vocab_size=VOCABULARY,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


def bert_inputs(microbatch: int) -> dict[str, torch.Tensor]:
    lengths = torch.randint(LENGTH // 2, LENGTH + 1, (microbatch, 1))
    mask = (torch.arange(LENGTH)[None, :] < lengths).long()
    batch = tokens(microbatch)
    return {
        "input_ids": batch["input_ids"],
        "attention_mask": mask,
        "labels": batch["labels"].masked_fill(mask == 0, -100),
    }


def t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=3,
            num_decoder_layers=3,
            num_heads=4,
            vocab_size=VOCABULARY,
            dropout_rate=0.0,
            use_cache=False,
            decoder_start_token_id=0,
            pad_token_id=0,
        )
    )


class Block(nn.Module):
    """A residual block with BatchNorm and in-place arithmetic, as torchvision's."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.down: nn.Module | None = None
        if stride != 1 or inside != outside:
            self.down = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.down is None else self.down(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """A small ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        )
        self.layers = nn.Sequential(
            Block(8, 8, 1), Block(8, 16, 2), Block(16, 16, 1), Block(16, 32, 2)
        )
        self.head = nn.Linear(32, 10)

    def forward(self, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.head(self.layers(self.stem(image)).mean((2, 3))), label)


def resnet() -> nn.Module:
    return ResNet()


def images(microbatch: int) -> dict[str, torch.Tensor]:
    return {
        "image": torch.randn(microbatch, 3, 16, 16),
        "label": torch.randint(0, 10, (microbatch,)),
    }


class UNet(nn.Module):
    """Skips that cross several stages."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.middle = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.SiLU())
        self.up2, self.up1 = nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)
        self.join2, self.join1 = nn.Conv2d(32, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
        self.out = nn.Conv2d(8, 3, 1)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        fine = F.gelu(self.down1(image))
        coarse = F.gelu(self.down2(F.max_pool2d(fine, 2)))
        low = self.middle(F.max_pool2d(coarse, 2))
        up = F.gelu(self.join2(torch.cat([self.up2(low), coarse], 1)))
        up = F.gelu(self.join1(torch.cat([self.up1(up), fine], 1)))
        return {"output": self.out(up)}


def unet() -> nn.Module:
    return UNet()


def unet_inputs(microbatch: int) -> dict[str, torch.Tensor]:
    return {"image": torch.randn(microbatch, 3, 16, 16)}


def unet_loss(output: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return F.mse_loss(output["output"], batch["image"])


class Mlp(nn.Module):
    """A plain MLP."""

    def __init__(self, width: int = 32, depth: int = 6) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *[nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(depth)]
        )

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(self.layers(x), target)


def mlp(width: int = 32, depth: int = 6) -> nn.Module:
    return Mlp(width, depth)


def vectors(microbatch: int) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(microbatch, 32), "target": torch.randn(microbatch, 32)}


class Transformer(nn.Module):
    """nn.Transformer, which branches on whether its mask is a causal one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 32)
        self.core = nn.Transformer(32, 4, 2, 2, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(32, VOCABULARY)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1], device=target.device)
        result = self.head(self.core(self.embed(source), self.embed(target), tgt_mask=mask))
        return {"loss": F.cross_entropy(result.transpose(1, 2), target)}


def transformer() -> nn.Module:
    return Transformer()


def translation(microbatch: int) -> dict[str, torch.Tensor]:
    return {
        "source": torch.randint(0, VOCABULARY, (microbatch, LENGTH)),
        "target": torch.randint(0, VOCABULARY, (microbatch, LENGTH - 4)),
    }


class Recurrent(nn.Module):
    """One block used six times, so tied over every stage."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32), nn.LayerNorm(32)
        )

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        for _ in range(6):
            x = x + self.block(x)
        return F.mse_loss(x, target)


def recurrent() -> nn.Module:
    return Recurrent()


class Parametrized(nn.Module):
    """Weight norm, and spectral norm, whose buffers follow the weight in every step."""

    def __init__(self) -> None:
        super().__init__()
        norms = nn.utils.parametrizations
        self.a = norms.weight_norm(nn.Linear(32, 32))
        self.b = norms.spectral_norm(nn.Linear(32, 32))
        self.norm = nn.BatchNorm1d(32)
        self.c = nn.Linear(32, 32)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(self.c(self.norm(torch.tanh(self.b(torch.tanh(self.a(x)))))), target)


def parametrized() -> nn.Module:
    return Parametrized()


class RandomFeatures(nn.Module):
    """Buffers of random numbers, drawn between the parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(32, 32)
        self.register_buffer("frequencies", torch.randn(32, 16))
        self.scale = nn.Parameter(torch.randn(32))
        self.register_buffer("order", torch.randperm(32), persistent=False)
        self.b, self.c = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        phase = torch.tanh(self.a(x)) @ self.frequencies
        features = torch.cat([phase.sin(), phase.cos()], -1)[:, self.order] * self.scale
        return F.mse_loss(self.c(torch.relu(self.b(features))), target)


def random_features() -> nn.Module:
    return RandomFeatures()


class AwkwardNames(nn.Module):
    """Names that are keywords, no identifiers, or the stage file's own."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("class", nn.Linear(32, 32))
        self.register_parameter("lambda", nn.Parameter(torch.ones(32)))
        self.parts = nn.ModuleDict({"in": nn.Linear(32, 32), "out-1": nn.Linear(32, 32)})

    def forward(
        self, input: torch.Tensor, device: torch.Tensor, batch: torch.Tensor
    ) -> torch.Tensor:
        hidden = torch.tanh(getattr(self, "class")(input)) * getattr(self, "lambda")
        return F.mse_loss(self.parts["out-1"](torch.tanh(self.parts["in"](hidden))), device * batch)


def awkward_names() -> nn.Module:
    return AwkwardNames()


def awkward_inputs(microbatch: int) -> dict[str, torch.Tensor]:
    return {name: torch.randn(microbatch, 32) for name in ("input", "device", "batch")}


class Methods(nn.Module):
    """Does two things, and holds a module and a parameter that are named as methods may be."""

    def __init__(self) -> None:
        super().__init__()
        self.forward_2 = nn.Linear(32, 32)
        self.forward_in_evaluation = nn.Parameter(torch.ones(32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scaled = self.forward_2(x) * self.forward_in_evaluation
        return scaled if x.dim() == 2 else scaled.tanh() if self.training else scaled.sin()


class Numbered(nn.Module):
    """A module whose name is a number, in no container, with steps that no variable names."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("0", nn.Linear(32, 32))
        self.methods = Methods()

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        x = self.methods(self.get_submodule("0")(x).relu())
        return F.mse_loss(self.methods(x[:, None])[:, 0], target)


def numbered() -> nn.Module:
    return Numbered()


def slow_vectors() -> Iterator[dict[str, torch.Tensor]]:
    """Batches that come slowly, so that there is time to kill a rank."""
    for step in range(1000):
        generator = torch.Generator().manual_seed(step)
        time.sleep(0.03)
        yield {name: torch.randn(8, 32, generator=generator) for name in ("x", "target")}


class Dropping(nn.Module):
    """Layers with dropout on their results, and attention with dropout on its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(5))
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + self.dropout(torch.relu(layer(x)))
            heads = x.view(-1, 4, 8, 1).expand(-1, -1, -1, 8)
            x = x + F.scaled_dot_product_attention(
                heads, heads, heads, dropout_p=0.2 if self.training else 0.0
            )[..., 0].flatten(1)
        return F.mse_loss(x, target)


def dropping() -> nn.Module:
    return Dropping()
