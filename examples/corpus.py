"""Bytes of the Python standard library's own source files, as batches for a byte-level model."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch

SAMPLES, LENGTH = 16, 128


def batches() -> Iterator[dict[str, torch.Tensor]]:
    """Endless random windows; the same on every rank."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    text = b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    while True:
        starts = torch.randint(0, len(data) - LENGTH, (SAMPLES,), generator=generator)
        ids = torch.stack([data[start : start + LENGTH] for start in starts.tolist()]).long()
        yield {"input_ids": ids, "labels": ids}


def inputs(microbatch: int) -> dict[str, torch.Tensor]:
    """Random bytes of the same shape, for tracing."""
    ids = torch.randint(0, 256, (microbatch, LENGTH))
    return {"input_ids": ids, "labels": ids}
