"""What a run recorded on all ranks, as a trace and a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from pipecut.plan.folder import read_plan
from pipecut.plan.replay.simulate import predicted
from pipecut.run_options import RunOptions
from pipecut.runtime.engine.recorder import Measured, Record
from pipecut.runtime.observe.chrome_trace import write_trace
from pipecut.runtime.observe.report import lines, report_of, write_report
from pipecut.runtime.pipeline import Pipeline
from pipecut.runtime.ranks.world import World

# First steps that are left out of a report, where there are others.
WARM = 3


@dataclass(frozen=True)
class Recorded:
    """What a rank recorded: its actions by step, without warm-up, and bytes at the peak."""

    steps: Sequence[Sequence[Record]]
    peak_bytes: int


def show_recorded(pipe: Pipeline, measured: Measured, plan: Path, options: RunOptions) -> None:
    """Gather what every rank recorded; on rank 0 write and print what the options ask for."""
    warm = min(WARM, len(measured.steps) - 1)
    ranks = _gathered(pipe.world, Recorded(measured.steps[warm:], measured.peak_bytes))
    if pipe.world.rank:
        return
    folder = read_plan(plan)
    if options.trace is not None:
        last_steps = {rank: recorded.steps[-1] for rank, recorded in enumerate(ranks)}
        write_trace(options.trace, folder, predicted(folder), last_steps)
        print(
            f"trace of the last step written to {options.trace}; "
            "open it at https://ui.perfetto.dev",
            flush=True,
        )
    if options.report is not None:
        steps = {rank: recorded.steps for rank, recorded in enumerate(ranks)}
        peaks = {rank: recorded.peak_bytes for rank, recorded in enumerate(ranks)}
        report = report_of(folder, steps, measured.step_seconds, peaks)
        write_report(options.report, report)
        profiled = any(note.startswith("costs: measured") for note in pipe.plan.notes)
        print("\n".join(lines(report, profiled)), flush=True)


def _gathered(world: World, recorded: Recorded) -> list[Recorded]:
    """What each rank recorded, by rank."""
    if world.size == 1:
        return [recorded]
    gathered: list[Recorded | None] = [None] * world.size
    dist.all_gather_object(gathered, recorded)
    return [rank for rank in gathered if rank is not None]
