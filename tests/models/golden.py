"""Three small models whose traces, blocks, cuts, schedules and stage code are kept as golden texts.

`tied`: one weight in the first and the last layer. `skip`: a tensor that crosses several layers.
`counter`: a buffer that every forward pass writes.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, VOCABULARY, LENGTH = 8, 16, 4
NAMES = ("tied", "skip", "counter")

# Devices so slow that computing, not sending, decides the cut, and whose rates are round numbers.
CLUSTER = """name: golden
nodes:
  - {{devices: {{slow-core: {devices}}}, link: wire}}
devices:
  slow-core:
    memory: 1GiB
    bandwidth: 1GB/s
    flops: {{fp32: 1MFLOP/s}}
    overhead: 0us
    efficiency: 1
    type: cpu
    source: made up
links:
  wire: {{bandwidth: 1GB/s, latency: 1us, source: made up}}
"""
JOB = """model: {{factory: "tests.models.golden:{name}"}}
inputs: "tests.models.golden:{inputs}"
batch: {{global: 8, microbatch: 2}}
"""


class Tied(nn.Module):
    """A language model of one layer that shares its embedding with its head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss."""
        logits = self.head(torch.tanh(self.layer(self.embed(tokens))))
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


class Skip(nn.Module):
    """Four layers; the result of the first is added again after the third."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss."""
        first = torch.relu(self.layers[0](x))
        second = torch.relu(self.layers[1](first))
        third = torch.relu(self.layers[2](second))
        return F.mse_loss(self.layers[3](third + first), target)


class Counter(nn.Module):
    """Two layers, and a buffer that sums what passes between them."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.register_buffer("total", torch.zeros(WIDTH))

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss."""
        hidden = torch.tanh(self.enter(x))
        self.total.add_(hidden.detach().sum(0))
        return F.mse_loss(self.leave(hidden), target)


def tied() -> nn.Module:
    """Factory of the job."""
    return Tied()


def skip() -> nn.Module:
    """Factory of the job."""
    return Skip()


def counter() -> nn.Module:
    """Factory of the job."""
    return Counter()


def sentences(microbatch: int) -> dict[str, torch.Tensor]:
    """Inputs of `tied`."""
    tokens = torch.randint(0, VOCABULARY, (microbatch, LENGTH))
    return {"tokens": tokens, "labels": tokens.clone()}


def vectors(microbatch: int) -> dict[str, torch.Tensor]:
    """Inputs of `skip` and of `counter`."""
    return {"x": torch.randn(microbatch, WIDTH), "target": torch.randn(microbatch, WIDTH)}


@dataclass(frozen=True)
class GoldenJob:
    """A job file and a cluster file that give the same costs on every machine.

    Compile them with `Options(costs="roofline")`, so that nobody's measurements are read.
    """

    job: Path
    cluster: Path


def golden_job(folder: Path, name: str, devices: int = 2, extra: str = "") -> GoldenJob:
    """Write the job of one of NAMES and a cluster of equal devices.

    `extra` is further lines of YAML for the job.
    """
    files = GoldenJob(folder / f"{name}.yaml", folder / "golden-cluster.yaml")
    inputs = "sentences" if name == "tied" else "vectors"
    files.job.write_text(JOB.format(name=name, inputs=inputs) + extra)
    files.cluster.write_text(CLUSTER.format(devices=devices))
    return files
