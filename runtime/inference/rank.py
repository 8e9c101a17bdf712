"""One rank of `pipecut predict`; rank 0 writes the file, batch after batch."""

# ruff: noqa: E402
from pipecut.runtime.health.interrupt import end_at_interrupt

if __name__ == "__main__":
    # Before imports that take seconds; whoever started this rank says that it was stopped.
    end_at_interrupt()

import os
import sys
import time
from contextlib import ExitStack

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from pipecut.model.weights import stored_values
from pipecut.runtime.batches.microbatches import samples_in
from pipecut.runtime.health.last_words import LastWords
from pipecut.runtime.health.rank_errors import end_with_parent
from pipecut.runtime.inference.output_file import OutputFile
from pipecut.runtime.inference.predict import PredictRequest
from pipecut.runtime.pipeline import Pipeline, load_pipeline
from pipecut.runtime.ranks.world import leave_world
from pipecut.runtime.training.data import batches_once


def run_rank(request: PredictRequest) -> None:
    """Predict all batches, and on rank 0 write and say what came out."""
    alike = {
        "--data": request.data,
        "--checkpoint": str(request.checkpoint),
        "--weights": str(request.weights),
    }
    restoring = request.checkpoint is not None
    pipe = load_pipeline(
        request.plan, request.device, restoring=restoring, alike=alike, code=request.code
    )
    take_parameters(pipe, request)
    outputs = [o for stage in pipe.plan.in_evaluation().stages for o in stage.outputs]
    samples, begun = 0, time.perf_counter()
    with ExitStack() as stack:
        file = bar = None
        if pipe.world.rank == 0:
            samples_at = {output.name: output.samples_at for output in outputs}
            file = stack.enter_context(OutputFile(request.output, samples_at))
            bar = stack.enter_context(BatchBar())
        for batch in batches_once(pipe, request.data, "--data"):
            predicted = pipe.predict(everywhere=True, **batch)
            samples += samples_in(pipe.plan, batch)
            if file is not None and bar is not None:
                file.add(predicted)
                bar.add(samples / (time.perf_counter() - begun))
        shapes = file.finish() if file is not None else {}
    if pipe.world.rank == 0:
        seconds = time.perf_counter() - begun
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        print(
            f"{samples} samples in {seconds:.1f} s, {samples / seconds:.1f} samples/s; "
            f"{listed} written to {request.output}",
            flush=True,
        )
    leave_world(pipe.world)


def take_parameters(pipe: Pipeline, request: PredictRequest) -> None:
    """Those of the checkpoint or of the weights that were asked for. Raises CheckpointError."""
    if request.checkpoint is not None:
        step = pipe.restore(request.checkpoint)
        if pipe.world.rank == 0:
            print(f"parameters after step {step}, from {request.checkpoint}", flush=True)
    elif request.weights is not None:
        state = pipe.state_dict()
        for wanted, tensor in stored_values(request.weights, pipe.plan, pipe.model.stages):
            state |= dict.fromkeys(wanted.names, tensor)
        pipe.load_state_dict(state)


class BatchBar:
    """Batches done and samples per second, in a terminal; nothing elsewhere. A context."""

    def __init__(self) -> None:
        columns = TextColumn("batch"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn()
        self.console = Console()
        shown = self.console.is_terminal
        speed = TextColumn("{task.description}")
        self.bar = Bar(*columns, speed, console=self.console, auto_refresh=False, disable=not shown)
        self.task = self.bar.add_task("", total=None)

    def __enter__(self) -> "BatchBar":
        self.bar.start()
        # A rank that is killed could not show it again.
        self.console.show_cursor(True)
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def add(self, samples_per_second: float) -> None:
        """A batch more."""
        self.bar.update(
            self.task, advance=1, description=f"{samples_per_second:,.1f} samples/s", refresh=True
        )


def main() -> None:
    """Run a rank: its request as JSON."""
    end_with_parent()
    words = LastWords(int(os.environ.get("RANK", "0")))
    words.listen()
    try:
        run_rank(PredictRequest.parse(sys.argv[1]))
    except (Exception, SystemExit) as error:
        # The one that load_pipeline made knows what this rank did.
        (LastWords.newest or words).end(type(error), error, error.__traceback__)


if __name__ == "__main__":
    main()
