"""One rank of a run: `torchrun ... -m pipecut.runtime PLAN/ --data module:function --steps N`."""

import os
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import torch.distributed as dist
import typer
from safetensors.torch import save_file

from pipecut.errors import PipecutError, RunError
from pipecut.runtime.allocations import Allocations
from pipecut.runtime.optimizer import make_optimizer
from pipecut.runtime.pipeline import Pipeline, load_pipeline
from pipecut.runtime.plan import read_plan
from pipecut.runtime.recorder import Measured, Recorder
from pipecut.runtime.report import lines, report_of, write_report
from pipecut.runtime.simulate import predicted as predicted_timeline
from pipecut.runtime.trace_file import write_trace
from pipecut.runtime.userfunction import find_function
from pipecut.runtime.world import leave_world

app = typer.Typer(add_completion=False)


@app.command()
def run(
    plan: Annotated[Path, typer.Argument(help="The plan folder.")],
    data: Annotated[str | None, typer.Option(help="module:function, an iterable of global batches.")] = None,
    steps: Annotated[int, typer.Option(min=1)] = 10,
    rate: Annotated[float, typer.Option("--lr", help="Learning rate.")] = 1e-3,
    clip: Annotated[float, typer.Option(help="Global gradient norm; 0 for none.")] = 0.0,
    save: Annotated[Path | None, typer.Option(help="Folder for the trained weights.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda, instead of the plan's.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Chrome trace of the last step, predicted and measured.")] = None,
    report: Annotated[Path | None, typer.Option(help="JSON of predicted and measured seconds; also printed.")] = None,
) -> None:
    """Train for some steps."""
    pipe = load_pipeline(plan, device)
    if trace is not None or report is not None:
        pipe.engine.recorder = Recorder(pipe.world.device)
    times: list[float] = []
    measured = Measured()
    try:
        train(pipe, batches(pipe, data, plan), steps, rate, clip, times, measured)
    except KeyboardInterrupt:
        kept = f"; its weights are in {save}" if save is not None and times else ""
        print(f"rank {pipe.world.rank}: stopped after {len(times)} steps{kept}", file=sys.stderr, flush=True)
        if save is not None and times:
            save_weights(pipe, save)
        # Other ranks may be gone in the middle of a step: closing the groups would wait for them.
        os._exit(130)
    if save is not None:
        save_weights(pipe, save)
    if pipe.engine.recorder is not None:
        show_recorded(pipe, measured, plan, trace, report)
    leave_world(pipe.world)


def batches(pipe: Pipeline, data: str | None, where: Path) -> Iterator[dict[str, torch.Tensor]]:
    """Global batches: the user's iterable again and again, or the job's example inputs."""
    model = pipe.plan.model
    if data is None:
        inputs = find_function(model.inputs, map(Path, model.folders), str(where))
        index = 0
        while True:
            torch.manual_seed(index)  # every rank must see the same batch
            index += 1
            yield inputs(pipe.plan.batch.global_size)
    function = find_function(data, map(Path, model.folders), "--data")
    here = f"rank {pipe.world.rank}: --data {data}"
    while True:
        empty = True
        try:
            source: Iterable[Any] = function()
            for batch in source:
                empty = False
                if not isinstance(batch, dict):
                    raise RunError(f"{here} gave a {type(batch).__name__}; it must give dictionaries of tensors")
                yield batch
        except PipecutError:
            raise
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{frame.filename}:{frame.lineno}"
            raise RunError(f"{here} failed at {place}: {type(error).__name__}: {error}") from error
        if empty:
            raise RunError(f"{here} gave no batch")


def train(
    pipe: Pipeline,
    source: Iterator[dict[str, torch.Tensor]],
    steps: int,
    rate: float,
    clip: float,
    times: list[float],
    measured: Measured,
) -> None:
    """The training loop; rank 0 reports. Appends the seconds of each finished step to `times`, fills `measured` if asked to."""
    optimizer = make_optimizer(pipe.plan.optimizer, pipe.parameters(), rate)
    loud = pipe.world.rank == 0
    every = max(1, steps // 20)
    first = value = 0.0
    passes: list[float] = []
    for step in range(steps):
        batch = next(source)
        # The second step: optimizer states are there, and it is not among those that are timed.
        watched = watch_memory(pipe, optimizer, measured) if pipe.engine.recorder is not None and step == 1 else nullcontext()
        begin = time.perf_counter()
        with watched:
            loss = pipe.step(**batch)
        if pipe.world.device.type == "cuda":
            torch.cuda.synchronize()
        passes.append(time.perf_counter() - begin)
        if pipe.engine.recorder is not None:
            measured.steps.append(pipe.engine.recorder.take())
        if clip:
            pipe.clip_grad_norm_(clip)
        optimizer.step()
        optimizer.zero_grad()
        value = float(loss)
        times.append(time.perf_counter() - begin)
        first = value if step == 0 else first
        if loud and (step % every == 0 or step == steps - 1):
            # Integers of one dimension are labels of samples, no tokens.
            count = next((t.numel() for t in batch.values() if not t.is_floating_point() and t.dim() > 1), 0)
            rates = (
                f"{count / times[-1]:9,.0f} tokens/s" if count else f"{pipe.plan.batch.global_size / times[-1]:9.1f} samples/s"
            )
            print(f"step {step + 1:5d}/{steps}  loss {value:8.4f}  {times[-1] * 1e3:8.1f} ms  {rates}", flush=True)
    if loud:
        # The first steps warm up.
        warm = min(3, steps - 1)
        forward_backward, whole = median(passes[warm:]) * 1e3, median(times[warm:]) * 1e3
        measured.step_seconds = forward_backward / 1e3
        predicted = pipe.plan.prediction.step_seconds * 1e3
        print(f"loss {first:.4f} before, {value:.4f} after {steps} steps")
        print(
            f"forward and backward of a step: predicted {predicted:.1f} ms, measured {forward_backward:.1f} ms; "
            f"with the optimizer {whole:.1f} ms (medians)",
            flush=True,
        )


@contextmanager
def watch_memory(pipe: Pipeline, optimizer: torch.optim.Optimizer, measured: Measured) -> Iterator[None]:
    """Note the bytes at the peak: the GPU's own count, or on a CPU that of all that operators allocate."""
    if pipe.world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(pipe.world.device)
        yield
        measured.peak_bytes = torch.cuda.max_memory_allocated(pipe.world.device)
        return
    states = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    counted = Allocations([*pipe.parameters(), *(buffer for _, buffer in pipe.named_buffers()), *states])
    with counted:
        yield
    measured.peak_bytes = counted.peak


def show_recorded(pipe: Pipeline, measured: Measured, path: Path, trace: Path | None, report: Path | None) -> None:
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
        write_trace(trace, folder, predicted_timeline(folder), {rank: steps[-1] for rank, steps in enumerate(everyone)})
        print(f"trace of the last step written to {trace}; open it at https://ui.perfetto.dev", flush=True)
    if report is not None:
        found = report_of(folder, dict(enumerate(everyone)), measured.step_seconds, dict(enumerate(peaks)))
        write_report(report, found)
        profiled = any(note.startswith("costs: measured") for note in pipe.plan.notes)
        print("\n".join(lines(found, profiled)), flush=True)


def save_weights(pipe: Pipeline, folder: Path) -> None:
    """This rank's state dict as one safetensors file, of the first replica alone: the others hold the same."""
    if pipe.world.replica:
        return
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in pipe.state_dict().items()}
    save_file(tensors, str(folder / f"rank_{pipe.world.position}.safetensors"))


def main() -> None:
    """Exit with the error's own code, and no traceback for errors of known kinds."""
    try:
        app(standalone_mode=False)
    except PipecutError as error:
        # One write, since several ranks share the stream.
        print(f"pipecut: {error}\n", end="", file=sys.stderr, flush=True)
        # A normal exit would wait for process groups whose other ranks are stuck.
        sys.stdout.flush()
        os._exit(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)


if __name__ == "__main__":
    main()
