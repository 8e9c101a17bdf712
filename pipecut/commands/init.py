"""`pipecut init`: a job file and its module, with comments, which compile and run as they are."""

from pathlib import Path
from typing import Annotated

import typer

from pipecut.console import console
from pipecut.errors import UserFileError
from pipecut.writable import writable_file

InitFolder = Annotated[Path, typer.Argument(help="Where to write job.yaml and model.py.")]

JOB = """\
# Every key: docs/job.md. Functions are module:function, looked up beside this file.
model:
  factory: "model:build"
  args: {width: 64, layers: 4}      # build(width=64, layers=4)
inputs: "model:inputs"              # an example batch, to trace the model with
batch:
  global: 16                        # samples per optimizer step
  microbatch: 4                     # samples that go through the pipeline at once; or auto
precision: fp32                     # or bf16, fp16
optimizer: {name: adamw, lr: 1e-3, weight_decay: 0.1, no_decay: ["*.bias", "*norm*"]}
# lr_schedule: {warmup: 100, decay: cosine, steps: 1000}
# clip: 1.0
schedule: 1f1b                      # pipecut specs lists them; or auto
stages: 2                           # leave it out for as many as fill the devices; or auto
seed: 0
"""

MODEL = '''\
"""The model of job.yaml and its batches: put yours in their place."""

import torch
from torch import nn
from torch.nn import functional as F

VOCABULARY, LENGTH = 128, 32


class Block(nn.Module):
    """One layer, as [samples, length, width] to the same shape."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        past = x.cumsum(1) / torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
        return x + self.down(F.gelu(self.up(self.norm(past))))


class Model(nn.Module):
    """Predicts the next token; called as model(**batch), it returns the loss."""

    def __init__(self, width, layers):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(layers))
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, input_ids, labels):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        return F.cross_entropy(self.head(x).flatten(0, 1), labels.flatten())


def build(width, layers):
    """The model, with parameters as they are initialised; args: in job.yaml are its arguments."""
    return Model(width, layers)


def inputs(samples):
    """A batch of so many samples: dimension 0 is the sample. Values may be random."""
    text = torch.randint(0, VOCABULARY, (samples, LENGTH + 1))
    return {"input_ids": text[:, :-1].contiguous(), "labels": text[:, 1:].contiguous()}


def batches():
    """Batches of the global size to train on, the same on every rank: read your data here."""
    generator = torch.Generator().manual_seed(0)
    while True:
        start = torch.randint(0, VOCABULARY, (16, 1), generator=generator)
        text = (start + torch.arange(LENGTH + 1)) % VOCABULARY
        yield {"input_ids": text[:, :-1].contiguous(), "labels": text[:, 1:].contiguous()}
'''


def init(folder: InitFolder = Path()) -> None:
    """Write a job.yaml and a model.py with comments, which compile and run as they are.

    Example: pipecut init my-training
    """
    files = {folder / "job.yaml": JOB, folder / "model.py": MODEL}
    for file in files:
        if file.exists():
            raise UserFileError(
                f"{file} is there already; give another folder: pipecut init FOLDER"
            )
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        writable_file(file, "pipecut init")
        file.write_text(text)
    console.print(f"wrote {' and '.join(map(str, files))}; next:", markup=False)
    if folder != Path():
        console.print(f"    cd {folder}", markup=False)
    for command in (
        "pipecut compile job.yaml -o plan/",
        "pipecut verify plan/",
        "pipecut run plan/ --data model:batches --steps 100",
    ):
        console.print(f"    {command}", markup=False)
