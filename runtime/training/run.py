"""One rank of `pipecut run`, from its options to its end."""

import os
import sys
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

from pipecut.errors import RunError
from pipecut.run_options import RunOptions
from pipecut.runtime.checkpoint.folder import latest
from pipecut.runtime.checkpoint.stopping import Stopping
from pipecut.runtime.engine.recorder import Recorder
from pipecut.runtime.health.interrupt import INTERRUPTED
from pipecut.runtime.health.last_words import LastWords
from pipecut.runtime.health.status import State
from pipecut.runtime.pipeline import Pipeline, load_pipeline
from pipecut.runtime.ranks.world import leave_world
from pipecut.runtime.training.log import refuse_other_log
from pipecut.runtime.training.recorded import show_recorded
from pipecut.runtime.training.training import Training, TrainingOptions


def run_rank(plan: Path, options: RunOptions, restarted: bool) -> None:
    """Train, save and report as the options say.

    A `restarted` rank goes on from the last checkpoint, if there is one.
    """
    # Under torchrun a host that joins again counts its own restarts anew, so that their number says
    # nothing.
    restarted = restarted or os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    _refuse_unwritable(options, restarted)
    restoring = options.resume or (restarted and latest(options.checkpoints) is not None)
    pipe = load_pipeline(
        plan, options.device, restoring=restoring, alike=_alike(options), code=options.code
    )
    if options.trace is not None or options.report is not None:
        pipe.engine.recorder = Recorder(pipe.world.device)
    LastWords(pipe.world.rank, pipe.world.status).listen()
    training = Training(pipe, _training_options(options, restarted))
    stopping = Stopping(pipe.world.rank, pipe.world.size)
    stopping.listen()
    training.run(options.data, plan, stopping)
    if options.save is not None:
        with pipe.world.status.during(State.SAVING):
            save_weights(pipe, options.save)
    if training.stopped:
        _end_stopped(training, options.save)
    if pipe.engine.recorder is not None and training.progress.times:
        show_recorded(pipe, training.measured, plan, options)
    leave_world(pipe.world)


def save_weights(pipe: Pipeline, folder: Path) -> None:
    """Write this rank's state dict as a safetensors file; the first replica's is that of all."""
    if pipe.world.replica:
        return
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in pipe.state_dict().items()}
    file = folder / f"rank_{pipe.world.pipeline_rank}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, str(file))
    except (OSError, SafetensorError) as error:
        raise RunError(f"{file} cannot be written: {error}") from None


def stopped_message(training: Training, save: Path | None) -> str:
    """After which step a training was stopped, and what was kept of it."""
    kept = f"; its weights are in {save}" if save is not None else ""
    kept += (
        f"; go on with --resume from {training.home}" if training.options.checkpoint_every else ""
    )
    kept = kept or "; nothing was kept, --checkpoint-every and --save do"
    return f"pipecut: stopped after step {training.done}{kept}"


def _end_stopped(training: Training, save: Path | None) -> None:
    """End this process, without waiting for others."""
    world = training.pipe.world
    if training.progress.loud:
        print(stopped_message(training, save), file=sys.stderr, flush=True)
    sys.stdout.flush()
    world.status.note(State.ENDED)
    if world.heartbeat is not None:
        # Others may be saving yet, and must not take this rank for lost.
        world.heartbeat.end()
    os._exit(INTERRUPTED)


def _refuse_unwritable(options: RunOptions, restarted: bool) -> None:
    first_rank = os.environ.get("RANK", "0") == "0"
    options.refuse_unwritable(first_rank)
    if first_rank and options.log is not None:
        refuse_other_log(options.log, options.resume or restarted)


def _alike(options: RunOptions) -> dict[str, str]:
    """What must be alike on all ranks."""
    return {
        "--data": options.data or "none",
        "--steps": str(options.steps),
        "--lr": str(options.rate),
        "--clip": str(options.clip),
        "--checkpoint-every": str(options.checkpoint_every),
        "--trained-only": str(options.trained_only),
        "--log": "given" if options.log is not None else "none",
    }


def _training_options(options: RunOptions, restarted: bool) -> TrainingOptions:
    return TrainingOptions(
        steps=options.steps,
        rate=options.rate,
        clip=options.clip,
        folder=options.checkpoints,
        checkpoint_every=options.checkpoint_every,
        keep=options.keep,
        resume=options.resume,
        restarted=restarted,
        log=options.log,
        trained_only=options.trained_only,
    )
