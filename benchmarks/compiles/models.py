"""Whole compiles of published configurations and of the examples: time, memory, what is proven.

python -m benchmarks.compiles.models [NAME ...]           measure, and write docs/figures.json
python -m benchmarks.compiles.models --check [NAME ...]   compare with that file, and fail
python -m benchmarks.compiles.models --check --fast       only the small models

--check compares what does not depend on the machine. Each model is compiled in a process of its
own, so that its memory can be measured, and its CPU seconds, imports and solver included.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.compiles.zoo import CONFIGURATIONS
from benchmarks.figures import ROOT, Figures, differing, read_figures, write_figures
from pipecut.compiler import Options, SizeOverrides, compile

# Bars: CPU seconds of the whole compile, seconds of placing, bytes, gap. Those of other models are
# not set.
BARS = {
    "Llama-3-8B": (6.0, None, None, 0.01),
    "Llama-3-70B": (10.0, 5.0, 2e9, 0.01),
    "Llama-3-405B": (15.0, None, None, 0.01),
}
# Examples that are no row of the table of compiles, with a cluster and stages.
EXAMPLES = {
    "demo.yaml": ("rtx-4090x4", 2),
    "gpt2-tiny.yaml": ("rtx-4090x4", 2),
    "classifier.yaml": ("rtx-4090x4", 2),
}
FAST = (*EXAMPLES, "ViT-H")
# Prints a model's figures; imports as `pipecut compile` does.
AS_A_COMMAND = """
import json, sys
from pipecut.rare_collections import collect_rarely
collect_rarely()
from benchmarks.compiles.models import compiled
print(json.dumps(compiled(sys.argv[1])))
"""
# Figures that are equal on every machine, and the part of itself by which another may differ, since
# solvers stop by the clock.
EQUAL = ("operators", "stages", "replicas", "boundary_bytes", "recomputing", "proven")
WITHIN = {"step_seconds": 0.01, "bottleneck": 0.01}


def compiled(name: str) -> dict[str, Any]:
    """The figures of a model, compiled in this process."""
    with tempfile.TemporaryDirectory() as folder:
        path, cluster, sizes = _job(name, Path(folder))
        begin = time.perf_counter()
        folder_of_plan = compile(path, cluster, Path(folder) / "plan", Options(sizes))
        seconds, cpu_seconds = time.perf_counter() - begin, time.process_time()
    plan = folder_of_plan.plan
    certificate = plan.certificate
    return {
        "torch": plan.torch.split("+")[0],
        "operators": len(folder_of_plan.graph.operators),
        "stages": len(plan.stages),
        "replicas": plan.replicas,
        "boundary_bytes": sum(
            t.bytes_for(plan.batch.largest) for b in plan.boundaries for t in b.tensors
        ),
        "recomputing": sum(stage.recompute for stage in plan.stages),
        "proven": certificate.proven,
        "gap": certificate.gap,
        "bottleneck": certificate.objective,
        "step_seconds": plan.prediction.step_seconds,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "placing": certificate.seconds,
        "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _job(name: str, folder: Path) -> tuple[Path, str, SizeOverrides]:
    """The job's file, the cluster and sizes over the job's own."""
    if name in EXAMPLES:
        cluster, stages = EXAMPLES[name]
        return ROOT / "examples" / name, cluster, SizeOverrides(stages=stages)
    chosen = CONFIGURATIONS[name]
    if isinstance(chosen.job, str):
        return ROOT / "examples" / chosen.job, chosen.cluster, SizeOverrides(stages=chosen.stages)
    factory, inputs = chosen.job
    job = {
        "model": {"factory": f"benchmarks.compiles.zoo:{factory.__name__}"},
        "inputs": f"benchmarks.compiles.zoo:{inputs.__name__}",
        "batch": {"global": 64 * chosen.microbatch, "microbatch": chosen.microbatch},
        "precision": "bf16",
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job), encoding="utf-8")
    return path, chosen.cluster, SizeOverrides(stages=chosen.stages)


def changes(expected: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Figures that are not what the file says, of those that are the same on every machine."""
    # Another release of torch traces other operators.
    equal = EQUAL if expected["torch"] == now["torch"] else ("stages", "replicas")
    worse = now["gap"] > expected["gap"] + 0.002
    kept = {name: expected[name] for name in (*equal, *WITHIN)}
    return differing(kept, now, WITHIN) + (
        [f"gap: {expected['gap']:.2%} in the file, {now['gap']:.2%} now"] if worse else []
    )


def met(name: str, row: dict[str, float]) -> str:
    """Whether the bars of a model hold."""
    if name not in BARS:
        return ""
    bars = zip(
        BARS[name], (row["cpu_seconds"], row["placing"], row["bytes"], row["gap"]), strict=True
    )
    return "yes" if all(bar is None or value <= bar for bar, value in bars) else "no"


def _with_bytecode() -> dict[str, str]:
    """An environment in which Python finds compiled what is imported, as where it is installed."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", "import pipecut.compiler.passes"], env=environment)
    return environment


def main() -> None:
    """Print the table; write the file, or compare with it."""
    options = [a for a in sys.argv[1:] if a.startswith("--")]
    names = [a for a in sys.argv[1:] if not a.startswith("--")]
    names = names or ([*FAST] if "--fast" in options else [*EXAMPLES, *CONFIGURATIONS])
    table = Table(
        "model",
        "stages",
        "operators",
        "CPU seconds",
        "placing",
        "memory",
        "bottleneck",
        "step",
        "gap",
        "bars met",
    )
    rows: Figures = {}
    wrong: list[str] = []
    environment = _with_bytecode()
    for name in names:
        done = subprocess.run(
            [sys.executable, "-c", AS_A_COMMAND, name],
            env=environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            wrong.append(f"{name}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
            continue
        row = rows[name] = json.loads(done.stdout.strip().splitlines()[-1])
        gap = "proven" if row["proven"] else f"{row['gap']:.2%}"
        figures = (
            f"{row['cpu_seconds']:.1f}",
            f"{row['placing']:.1f}",
            f"{row['bytes'] / 1e9:.2f} GB",
        )
        stages = f"{row['stages']} x {row['replicas']}", f"{row['operators']:,}"
        times = f"{row['bottleneck'] * 1e3:.1f} ms", f"{row['step_seconds']:.2f} s"
        table.add_row(name, *stages, *figures, *times, gap, met(name, row))
    Console(width=160).print(table)
    if "--check" in options:
        in_file = read_figures()["models"]
        wrong += [
            f"{name}: {text}" for name, row in rows.items() for text in changes(in_file[name], row)
        ]
    else:
        write_figures("models", rows)
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
