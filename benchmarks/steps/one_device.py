"""Several stages on one device beside the unsplit model: the same numbers, and the engine's cost.

python -m benchmarks.steps.one_device

One rank has every stage, so that nothing but the engine stands between them: on a GPU where there
is one, else on one thread. Both take gradients of the same microbatches, in turn.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks import shapes
from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.compiler.partition.program.solver import quiet_stdout
from pipecut.model.precision import cast_model
from pipecut.runtime.gradients.masters import Masters
from pipecut.runtime.gradients.parameters import parameters_of
from pipecut.runtime.pipeline import load_pipeline
from pipecut.runtime.training.data import batches
from pipecut.runtime.verify.verify import verify

STAGES, MICROBATCHES, ROUNDS, WARM = 4, 8, 20, 3
# Of the unsplit model's step, at the most.
BAR = 1.03


def build(device: str) -> nn.Module:
    """GPT-2 small on a GPU, a smaller one on a CPU."""
    from examples import gpt2

    return gpt2.build("small") if device == "cuda" else shapes.gpt2()


def long_inputs(microbatch: int) -> dict[str, torch.Tensor]:
    """Random tokens, 512 a sample."""
    ids = torch.randint(0, 50257, (microbatch, 512))
    return {"input_ids": ids, "labels": ids}


def main() -> None:
    """Print for each precision whether the numbers are the same, and both steps."""
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    table = Table(
        "precision", "largest difference", "unsplit", "stages", "stages / unsplit (median)"
    )
    ratios, passed = [], []
    for precision in ("fp32", "bf16"):
        with tempfile.TemporaryDirectory() as scratch, quiet_stdout():
            plan = plan_of(Path(scratch), device, precision)
            compared = verify(plan, steps=2)
            ours, theirs = in_turn(plan, device)
        passed.append(compared.passed)
        ratios.append(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)))
        difference = max(d.value for d in compared.worst.values())
        times = (f"{statistics.median(times) * 1e3:.1f} ms" for times in (theirs, ours))
        table.add_row(precision, f"{difference:.1e}", *times, f"{ratios[-1]:.3f}")
    console = Console(width=130)
    console.print(table)
    where = torch.cuda.get_device_name() if device == "cuda" else "one thread of a CPU"
    verdict = "verify passes" if all(passed) else "verify FAILS"
    console.print(
        f"{STAGES} stages on {where}: {verdict};"
        f" at most {max(ratios):.3f} of the unsplit step (bar {BAR})"
    )


def plan_of(folder: Path, device: str, precision: str) -> Path:
    """A plan of the model with all its stages on one device."""
    folder.mkdir(parents=True, exist_ok=True)
    size = 8 if device == "cuda" else 2
    text = {
        "model": {"factory": "benchmarks.steps.one_device:build", "args": {"device": device}},
        "inputs": "benchmarks.steps.one_device:long_inputs"
        if device == "cuda"
        else "benchmarks.shapes:tokens",
        "batch": {"global": MICROBATCHES * size, "microbatch": size},
        "precision": precision,
        "optimizer": "sgd",
    }
    job = folder / "job.yaml"
    job.write_text(yaml.safe_dump(text))
    sizes = SizeOverrides(stages=STAGES, schedule="interleaved", stages_per_rank=STAGES)
    compile(job, "auto", folder / "plan", Options(sizes, costs="roofline"))
    return folder / "plan"


def in_turn(path: Path, device: str) -> tuple[list[float], list[float]]:
    """Seconds of forward and backward by round: of the plan, and of the unsplit model."""
    pipe = load_pipeline(path, device)
    torch.set_num_threads(1)
    batch = next(batches(pipe, None, path))
    model = cast_model(build(device), pipe.plan.model.precision).to(device).train()
    parameters = parameters_of(model)
    # Its hooks add up gradients.
    Masters(parameters)
    parts = [
        {name: t.to(device) for name, t in _part(batch, m, pipe.plan.batch.microbatch).items()}
        for m in range(MICROBATCHES)
    ]

    def unsplit() -> None:
        for part in parts:
            (model(**part).loss / MICROBATCHES).backward()

    both: tuple[Callable[[], Any], ...] = (lambda: pipe.step(**batch)), unsplit
    held = [*pipe.parameters(), *(p.master for p in parameters)]
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(WARM + ROUNDS):
        for at in (0, 1) if number % 2 else (1, 0):
            begin = time.perf_counter()
            both[at]()
            if device == "cuda":
                torch.cuda.synchronize()
            if number >= WARM:
                seconds[at].append(time.perf_counter() - begin)
            for parameter in held:
                parameter.grad = None
    return seconds


def _part(batch: dict[str, torch.Tensor], microbatch: int, size: int) -> dict[str, torch.Tensor]:
    return {
        name: tensor[microbatch * size : (microbatch + 1) * size] for name, tensor in batch.items()
    }


if __name__ == "__main__":
    main()
