"""One rank of a run: `torchrun ... -m pipecut.runtime PLAN/ --data module:function --steps N`."""

# ruff: noqa: E402
from pipecut.runtime.health.interrupt import end_at_interrupt, raise_at_interrupt

if __name__ == "__main__":
    # Before imports that take seconds, in which a user may press Ctrl-C.
    end_at_interrupt()

from pipecut.runtime.health.rank_errors import end_with_parent

if __name__ == "__main__":
    # Whoever started this rank may end meanwhile, too.
    end_with_parent()

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import torch.distributed as dist
import typer
from safetensors import SafetensorError
from safetensors.torch import save_file

from pipecut.errors import RunError
from pipecut.plan.folder import read_plan
from pipecut.plan.replay.simulate import predicted as predicted_timeline
from pipecut.run_options import (
    DEFAULT_CHECKPOINTS,
    DEFAULT_KEEP,
    DEFAULT_STEPS,
    CheckpointsOption,
    ClipOption,
    DataOption,
    EveryOption,
    KeepOption,
    RateOption,
    ReportOption,
    ResumeOption,
    RunDeviceOption,
    SaveOption,
    StepsOption,
    TraceOption,
)
from pipecut.runtime.checkpoint.folder import latest
from pipecut.runtime.checkpoint.stopping import STOPPED, Stopping
from pipecut.runtime.engine.recorder import Measured, Recorder
from pipecut.runtime.health.last_words import INTERRUPTED, LastWords, end_now, say
from pipecut.runtime.health.status import State
from pipecut.runtime.observe.chrome_trace import write_trace
from pipecut.runtime.observe.report import lines, report_of, write_report
from pipecut.runtime.pipeline import Pipeline, load_pipeline
from pipecut.runtime.ranks.world import leave_world
from pipecut.runtime.training.training import Training, TrainingOptions
from pipecut.writable import writable_file, writable_folder

app = typer.Typer(add_completion=False)


@app.command()
def run(
    plan: Annotated[Path, typer.Argument(help="The plan folder.")],
    data: DataOption = None,
    steps: StepsOption = DEFAULT_STEPS,
    rate: RateOption = None,
    clip: ClipOption = None,
    save: SaveOption = None,
    device: RunDeviceOption = None,
    trace: TraceOption = None,
    report: ReportOption = None,
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
    every: EveryOption = 0,
    keep: KeepOption = DEFAULT_KEEP,
    resume: ResumeOption = False,
    restarted: Annotated[
        bool, typer.Option("--restarted", help="Go on from the last checkpoint, if there is one.")
    ] = False,
) -> None:
    """Train for some steps."""
    for folder in [save] if save is not None else []:
        writable_folder(folder, "--save")
    for file, option in ((trace, "--trace"), (report, "--report")):
        if file is not None and os.environ.get("RANK", "0") == "0":
            writable_file(file, option)
    # Under torchrun a host that joins again counts its own restarts anew, so that their number says nothing.
    again = restarted or os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    goes_on = resume or (again and latest(checkpoints) is not None)
    alike = {
        "--data": data or "none",
        "--steps": str(steps),
        "--lr": str(rate),
        "--clip": str(clip),
    }
    alike |= {"--checkpoint-every": str(every)}
    pipe = load_pipeline(plan, device, restoring=goes_on, alike=alike)
    if trace is not None or report is not None:
        pipe.engine.recorder = Recorder(pipe.world.device)
    LastWords(pipe.world.rank, pipe.world.status).listen()
    training = Training(
        pipe, TrainingOptions(steps, rate, clip, checkpoints, every, keep, resume, again)
    )
    stopping = Stopping(pipe.world.rank, pipe.world.size)
    stopping.listen()
    training.run(data, plan, stopping)
    if save is not None:
        with pipe.world.status.during(State.SAVING):
            save_weights(pipe, save)
    if training.stopped:
        say_stopped(training, save)
        sys.stdout.flush()
        pipe.world.status.note(State.ENDED)
        if pipe.world.heartbeat is not None:
            # Others may be saving yet, and must not take this rank for lost.
            pipe.world.heartbeat.end()
        os._exit(STOPPED)
    if pipe.engine.recorder is not None and training.progress.times:
        show_recorded(pipe, training.measured, plan, trace, report)
    leave_world(pipe.world)


def say_stopped(training: Training, save: Path | None) -> None:
    """After which step, and what was kept; by rank 0."""
    if not training.progress.loud:
        return
    kept = f"; its weights are in {save}" if save is not None else ""
    kept += f"; go on with --resume from {training.home}" if training.options.every else ""
    kept = kept or "; nothing was kept, --checkpoint-every and --save do"
    print(f"pipecut: stopped after step {training.done}{kept}", file=sys.stderr, flush=True)


def show_recorded(
    pipe: Pipeline, measured: Measured, path: Path, trace: Path | None, report: Path | None
) -> None:
    """Rank 0 gathers what every rank recorded, and writes and prints what was asked for."""
    warm = min(3, len(measured.steps) - 1)
    own = measured.steps[warm:], measured.peak_bytes
    gathered: list[Any] = [own]
    if pipe.world.size > 1:
        gathered = [None] * pipe.world.size
        dist.all_gather_object(gathered, own)
    everyone, peaks = zip(*gathered, strict=True)
    if pipe.world.rank:
        return
    folder = read_plan(path)
    if trace is not None:
        write_trace(
            trace,
            folder,
            predicted_timeline(folder),
            {rank: steps[-1] for rank, steps in enumerate(everyone)},
        )
        print(
            f"trace of the last step written to {trace}; open it at https://ui.perfetto.dev",
            flush=True,
        )
    if report is not None:
        found = report_of(
            folder, dict(enumerate(everyone)), measured.step_seconds, dict(enumerate(peaks))
        )
        write_report(report, found)
        profiled = any(note.startswith("costs: measured") for note in pipe.plan.notes)
        print("\n".join(lines(found, profiled)), flush=True)


def save_weights(pipe: Pipeline, folder: Path) -> None:
    """This rank's state dict as one safetensors file, of the first replica alone: the others hold the same."""
    if pipe.world.replica:
        return
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in pipe.state_dict().items()}
    file = folder / f"rank_{pipe.world.pipeline_rank}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, str(file))
    except (OSError, SafetensorError) as error:
        raise RunError(f"{file} cannot be written: {error}") from None


def main() -> None:
    """Exit with the error's own code, and no traceback for any error."""
    words = LastWords(int(rank) if (rank := os.environ.get("RANK", "0")).isdigit() else 0)
    words.listen()
    raise_at_interrupt()
    try:
        app(standalone_mode=False)
    except typer.Abort:
        sys.exit(INTERRUPTED)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        # click's usage errors carry their own text.
        if hasattr(error, "format_message"):
            say(f"pipecut: {error.format_message()} (see --help)")
            end_now(2)
        # The one that load_pipeline made knows what this rank did.
        (LastWords.newest or words).end(type(error), error, error.__traceback__)


if __name__ == "__main__":
    main()
