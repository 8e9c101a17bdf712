"""A rank of `pipecut verify` under NCCL's rules: PLAN FOLDER STEPS DEVICE, as verify's own program.

RULES says which emulation carries messages. The first collective of a group also blocks the host
until all its ranks use it; and each rank evaluates before it trains.
"""

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipecut.runtime.pipeline import Pipeline, load_pipeline
from pipecut.runtime.verify import rank
from pipecut.runtime.verify.batches import batch_of_step
from tests.programs import emulated

RULES = "TEST_RULES_OF_NCCL"
COLLECTIVES = (
    "all_reduce",
    "all_gather",
    "all_gather_into_tensor",
    "broadcast",
    "reduce",
    "reduce_scatter_tensor",
)


def first_use_blocks() -> None:
    """Collectives of a group wait for all its ranks, once."""
    used: set[int] = set()

    def wrap(collective: Any) -> Any:
        def wrapped(*arguments: Any, group: Any = None, **options: Any) -> Any:
            if id(group) not in used:
                used.add(id(group))
                dist.barrier(group)
            return collective(*arguments, group=group, **options)

        return wrapped

    for name in COLLECTIVES:
        setattr(dist, name, wrap(getattr(dist, name)))


def load(path: Path, device: str | None, rules: str, **options: Any) -> Pipeline:
    """Loaded as verify does, and evaluated once."""
    pipe = load_pipeline(path, device, getattr(emulated, rules)(), **options)
    with torch.random.fork_rng():
        batch = batch_of_step(pipe.plan, 100)
    assert pipe.eval_step(**batch).isfinite()
    return pipe


if __name__ == "__main__":
    first_use_blocks()
    rank.load_pipeline = partial(load, rules=os.environ[RULES])  # type: ignore[assignment]
    rank.main()
