"""torch's own schedules without processes: their CSVs, and its own reader of one."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.distributed.pipelining import schedules

from pipecut.compiler.exchange.torch_csv import LEFT_OUT

# Schedules of several stages per rank, and whether stages go there and back, as a V.
SEVERAL = {
    "ScheduleLoopedBFS": False,
    "ScheduleInterleaved1F1B": False,
    "ScheduleInterleavedZeroBubble": False,
    "ScheduleZBVZeroBubble": True,
    "ScheduleDualPipeV": True,
}


def stage(index: int, stages: int, rank: int, ranks: int) -> Any:
    """What a schedule asks of a stage before it runs."""
    return SimpleNamespace(
        stage_index=index,
        num_stages=stages,
        group_rank=rank,
        group_size=ranks,
        is_first=index == 0,
        is_last=index == stages - 1,
        submod=torch.nn.Identity(),
        stage_index_to_group_rank={},
        has_backward=True,
    )


def torchs_csv(name: str, ranks: int, microbatches: int, path: Path, messages: bool) -> Path:
    """Write the CSV of one of torch's schedules, as torch writes it."""
    own = [stage(index, 2 * ranks, 0, ranks) for index in _stages_of(0, ranks, SEVERAL[name])]
    made = getattr(schedules, name)(own, microbatches, loss_fn=lambda *_: 0)
    made._dump_csv(str(path), "compute_comms" if messages else "compute_only")
    return path


def single_csv(name: str, ranks: int, microbatches: int, path: Path) -> Path:
    """The order of a schedule of one stage per rank, which torch has, but writes to no CSV."""
    order = getattr(schedules, name)(stage(0, ranks, 0, ranks), microbatches).pipeline_order
    rows = [",".join(str(action or "") for action in order[rank]) for rank in range(ranks)]
    path.write_text("\n".join(rows) + "\n")
    return path


def _stages_of(rank: int, ranks: int, returns: bool) -> tuple[int, int]:
    return (rank, 2 * ranks - 1 - rank) if returns else (rank, rank + ranks)


def runtime(ranks: int, stages: int, microbatches: int) -> Any:
    """What torch runs a CSV with."""
    return schedules._PipelineScheduleRuntime([stage(0, stages, 0, ranks)], microbatches)


def load_in_torch(path: Path, ranks: int, stages: int, microbatches: int, messages: bool) -> Any:
    """The CSV as torch reads, lowers and simulates it. Raises what torch does."""
    reader = runtime(ranks, stages, microbatches)
    reader._load_csv(str(path), "compute_comms" if messages else "compute_only")
    # Its simulation knows no action of FSDP.
    simulated = {
        rank: [action for action in actions if action.computation_type.value not in LEFT_OUT]
        for rank, actions in reader.pipeline_order_with_comms.items()
    }
    mapping = reader.stage_index_to_group_rank
    schedules._simulate_comms_compute(simulated, lambda index: mapping[index], stages)
    return reader
