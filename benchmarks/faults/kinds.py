"""Kill random ranks at random moments of the demo's training, which must end with equal weights.

python -m benchmarks.faults.kinds [KILLS]
"""

import random
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import load_file

from benchmarks.faults.kills import disturbed
from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.plan.folder import read_plan
from pipecut.runtime.checkpoint.export import export

STEPS, EVERY, DELAY, SEED = 200, 5, (0.1, 4.0), 0


def main() -> None:
    """Print each kill, and whether weights, exit codes and processes are as they must be."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    random.seed(SEED)
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        plan = folder / "plan"
        compile(
            Path(__file__).parents[2] / "examples" / "demo.yaml",
            "auto",
            plan,
            Options(SizeOverrides(stages=2)),
        )
        train = [
            sys.executable,
            "-m",
            "pipecut",
            "run",
            str(plan),
            "--steps",
            str(STEPS),
            "--data",
            "examples.corpus:batches",
        ]
        train += ["--checkpoint-every", str(EVERY), "--checkpoints"]
        begin = time.monotonic()
        calm = disturbed([*train, str(folder / "calm")], 2, 0, DELAY, folder / "a")
        middle = time.monotonic()
        disturbed_run = disturbed(
            [*train, str(folder / "killed"), "--max-restarts", str(kills)],
            2,
            kills,
            DELAY,
            folder / "b",
        )
        end = time.monotonic()
        for rank in disturbed_run.killed:
            console.print(f"killed {rank}")
        if calm.code or disturbed_run.code:
            console.print(calm.output + disturbed_run.output)
            sys.exit(1)
        expected, after = (weights_of(plan, folder / name) for name in ("calm", "killed"))
    equal = expected.keys() == after.keys() and all(
        torch.equal(tensor, after[name]) for name, tensor in expected.items()
    )
    reported = disturbed_run.output.count("was ended by SIGKILL")
    console.print(
        f"{len(disturbed_run.killed)} kills, {reported} reported with rank and action,"
        f" {len(disturbed_run.orphans)} processes left behind"
    )
    console.print(f"weights after {STEPS} steps {'equal, bit for bit' if equal else 'DIFFER'}")
    console.print(f"{middle - begin:.0f} s undisturbed, {end - middle:.0f} s with kills")
    all_killed = len(disturbed_run.killed) == reported == kills
    sys.exit(not equal or bool(disturbed_run.orphans) or not all_killed)


def weights_of(plan: Path, checkpoints: Path) -> dict[str, torch.Tensor]:
    """The whole model's, from the last checkpoint."""
    file = checkpoints / "model.safetensors"
    export(read_plan(plan).plan, checkpoints, file)
    return load_file(str(file))


if __name__ == "__main__":
    main()
