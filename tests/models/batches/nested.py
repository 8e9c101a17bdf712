"""Models whose inputs are nested: dicts, lists, tuples, dataclasses, named tuples, mappings."""

from collections import OrderedDict, UserDict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, CLASSES = 8, 5


class Encoding(UserDict[str, Any]):
    """A mapping with attributes for its keys, as transformers' BatchEncoding is."""

    def __getattr__(self, name: str) -> Any:
        if name == "data":
            raise AttributeError(name)
        return self.data[name]


class Boxes(NamedTuple):
    """Corners of a sample's box, and a table of anchors that all samples have."""

    corners: torch.Tensor
    anchors: torch.Tensor


@dataclass(frozen=True, slots=True)
class Target:
    """Labels with what they are weighted by."""

    labels: torch.Tensor
    boxes: Boxes
    smoothing: float = 0.1
    ignored: int = -100


@dataclass
class Views:
    """Several views of a sample; `scale` multiplies them, `mask` may be None."""

    images: list[torch.Tensor]
    scales: tuple[float, float]
    mask: torch.Tensor | None = None
    more: dict[str, Any] = field(default_factory=dict)


class Nested(nn.Module):
    """Goes through its inputs in order, and changes the containers that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *[nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(4)]
        )
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(
        self, views: Views, encoding: Encoding, target: Target | None = None
    ) -> dict[str, torch.Tensor]:
        assert views.mask is None and views.more.pop("flip") is True and not views.more
        scaled = [image * by for image, by in zip(views.images, views.scales, strict=True)]
        hidden = self.layers(torch.stack(scaled).sum(0))
        for key in encoding:
            hidden = hidden * 0.5 + encoding[key]
        hidden = hidden + encoding.words
        if target is None:
            return {"logits": self.head(hidden)}
        near = (target.boxes.corners[:, None] - target.boxes.anchors).square().mean()
        logits = self.head(self.layers[3](hidden))
        loss = F.cross_entropy(
            logits,
            target.labels,
            label_smoothing=target.smoothing,
            ignore_index=target.ignored,
        )
        return {"loss": loss + near * hidden.square().mean(), "logits": logits}


def model() -> nn.Module:
    return Nested()


def inputs(samples: int) -> OrderedDict[str, Any]:
    images = [torch.randn(samples, WIDTH) for _ in range(2)]
    words = {name: torch.randn(samples, WIDTH) for name in ("words", "lines", "pages")}
    boxes = Boxes(torch.rand(samples, 4), torch.rand(3, 4))
    labels = torch.randint(0, CLASSES, (samples,))
    return OrderedDict(
        views=Views(images, (0.5, 2.0), more={"flip": True}),
        encoding=Encoding(words),
        target=Target(labels, boxes),
    )


class Scored(nn.Module):
    """Returns what a loss function compares with the nested batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(WIDTH, WIDTH) for _ in range(4)])

    def forward(self, batch: dict[str, Any]) -> torch.Tensor:
        first, second = batch["pair"]
        out: torch.Tensor = self.layers(first + second[0] * batch[3]["scale"])
        return out


def scored() -> nn.Module:
    return Scored()


def score(output: torch.Tensor, batch: dict[str, Any]) -> torch.Tensor:
    return F.mse_loss(output, batch["targets"][0]["value"] + batch["batch"]["pair"][0])


def scored_inputs(samples: int) -> dict[str, Any]:
    pair = torch.randn(samples, WIDTH), [torch.randn(samples, WIDTH)]
    targets = [{"value": torch.randn(samples, WIDTH), "none": None}]
    return {"batch": {"pair": pair, 3: {"scale": 2}}, "targets": targets, "empty": {}}


class Tokens(nn.Module):
    """Takes tokens of a length in a dict, beside a list of positions that are no samples."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, WIDTH)
        self.layers = nn.Sequential(
            *[nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(4)]
        )
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, text: dict[str, Any], positions: list[torch.Tensor]) -> torch.Tensor:
        hidden = self.embedding(text["ids"]) + positions[0][:, None] + positions[1]
        out: torch.Tensor = self.head(self.layers(hidden).cumsum(1))
        return out


def tokens() -> nn.Module:
    return Tokens()


def token_loss(output: torch.Tensor, batch: dict[str, Any]) -> torch.Tensor:
    return F.cross_entropy(output.flatten(0, 1), batch["text"]["labels"].flatten())


def token_inputs(samples: int, length: int = 12) -> dict[str, Any]:
    labels = torch.randint(0, CLASSES, (samples, length))
    labels[:, length // 2 :][torch.rand(samples, length - length // 2) < 0.7] = -100
    text = {"ids": torch.randint(0, CLASSES, (samples, length)), "labels": labels}
    return {"text": text, "positions": [torch.rand(length), torch.rand(WIDTH)]}


class Encoded(nn.Module):
    """Takes transformers' own encoding."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Tokens()

    def forward(self, encoding: Any, labels: torch.Tensor) -> torch.Tensor:
        mask = encoding.attention_mask
        text = {"ids": encoding["input_ids"]}
        positions = [mask.new_zeros(mask.shape[1]).float(), encoding.token_type_ids.float()]
        return F.cross_entropy(self.inner(text, positions).flatten(0, 1), labels.flatten())


def encoded() -> nn.Module:
    return Encoded()


def encoded_inputs(samples: int) -> Any:
    from transformers import BatchEncoding

    ids = torch.randint(0, CLASSES, (samples, 6))
    mask, types = torch.ones(samples, 6), torch.rand(samples, 1, WIDTH)
    encoding = BatchEncoding({"input_ids": ids, "attention_mask": mask, "token_type_ids": types})
    return BatchEncoding({"encoding": encoding, "labels": torch.flip(ids, (1,))})


class Opaque(Scored):
    """Its second module runs as it is, and takes the nested batch whole."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()

    def forward(self, batch: dict[str, Any]) -> torch.Tensor:
        return self.gate(super().forward(batch), batch)  # type: ignore[no-any-return]


class Gate(nn.Module):
    """Chooses samples by their values."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: torch.Tensor, batch: dict[str, Any]) -> torch.Tensor:
        chosen = (batch["pair"][0].sum(1) > 0).nonzero()[:, 0]
        return x.index_add(0, chosen, (x[chosen] * self.weight) * batch[3]["scale"])


def opaque() -> nn.Module:
    return Opaque()
