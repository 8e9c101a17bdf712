"""Costed graphs of any size, shaped like transformers: branching layers along a residual stream."""

import random

from pipecut.compiler.partition.problem import (
    Block,
    Problem,
    SharedParameter,
    StageDevice,
    TensorUse,
)
from pipecut.compiler.partition.reduce import needed_edges

# A layer's operators: what each reads (positions within the layer, -1 for the residual stream
# before it), its microseconds, and KiB.
LAYER = (
    *(
        ((-1,), 2, 64),
        ((0,), 30, 64),
        ((0,), 8, 16),
        ((0,), 8, 16),
        ((1,), 1, 64),
        ((2,), 1, 16),
        ((4, 5, 3), 20, 64),
    ),
    *(
        ((6,), 30, 64),
        ((-1, 7), 1, 64),
        ((8,), 2, 64),
        ((9,), 100, 224),
        ((9,), 100, 224),
        ((10, 11), 3, 224),
        ((12,), 100, 64),
    ),
    ((8, 13), 1, 64),
)


def layered(operators: int, stages: int, seed: int = 0) -> Problem:
    """About that many operators for equal devices without memory limits.

    Seconds vary by a tenth from layer to layer.
    """
    draw = random.Random(seed)
    blocks: list[Block] = []
    tensors: list[TensorUse] = []
    users: dict[int, list[int]] = {}
    stream: int | None = None
    sizes: list[int] = []
    for _ in range(max(stages, operators // len(LAYER))):
        base, scale = len(blocks), draw.uniform(0.95, 1.05)
        for at, (reads, work, size) in enumerate(LAYER):
            blocks.append(
                Block((base + at,), {"gpu": work * scale * 1e-6}, size * 1024, size * 2048)
            )
            sizes.append(size * 2**20)
            for read in reads:
                source = base + read if read >= 0 else stream
                if source is not None:
                    users.setdefault(source, []).append(base + at)
        stream = len(blocks) - 1
    for source, consumers in users.items():
        tensors.append(
            TensorUse(
                str(source), source, tuple(consumers), sizes[source] / 64, sizes[source] / 64, 2
            )
        )
    edges = {(c.source, consumer) for c in tensors for consumer in c.consumers}
    shared = tuple(SharedParameter(str(v), 2**20, (v,)) for v in range(len(blocks)))
    stage_devices = tuple(StageDevice("gpu", 2**50, stages - s, 450e9, 0.0) for s in range(stages))
    return Problem(
        tuple(blocks), needed_edges(edges, len(blocks)), tuple(tensors), shared, stage_devices
    )
