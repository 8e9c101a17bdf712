"""Checkpoints made by hand, of tensors and a manifest without a training."""

from pathlib import Path
from typing import Any

import torch

from pipecut.runtime.checkpoint import writing
from pipecut.runtime.checkpoint.manifest import VERSION, Manifest, TrainingState
from pipecut.runtime.checkpoint.rank_tensors import RankTensors


def about(step: int, **fields: Any) -> Manifest:
    """What all ranks together say of a checkpoint."""
    usual = {"model": {"factory": "models:build", "args": {}}, "training": TrainingState(ranks=1)}
    empty: dict[str, Any] = {"files": {}, "tensors": {}, "groups": []}
    return Manifest(VERSION, step, **{**usual, **empty, **fields})


def made_checkpoint(folder: Path, step: int, **fields: Any) -> Path:
    """A checkpoint of one rank with one parameter."""
    partial = writing.begin(folder, step)
    tensors = {"parameter/w": torch.full((2,), float(step))}
    writing.write_part(partial, 0, RankTensors(tensors))
    return writing.finish(partial, folder, [0], about(step, **fields))
