"""Whole compiles of published configurations: seconds, memory, and what is proven.

python -m benchmarks.models [NAME ...]     each model in a process of its own, so that its memory is its own
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.zoo import MODELS
from pipecut.compiler import Options, Sizes, compile

# Bars: seconds of the whole compile, of placing, bytes, gap. Those of other models are not set.
BARS = {"Llama-3-70B": (30.0, 5.0, 2e9, 0.01), "Llama-3-405B": (60.0, None, None, 0.01)}


def one(name: str) -> dict[str, object]:
    """Compile one model here."""
    factory, args, inputs, cluster, stages, microbatch = MODELS[name]
    # The Llamas' bars are for the examples' own inputs, of 2,048 tokens.
    source = "examples.llama:inputs" if name in BARS else f"benchmarks.zoo:{inputs.__name__}"
    job = {
        "model": {"factory": f"benchmarks.zoo:{factory.__name__}", "args": args},
        "inputs": source,
        "batch": {"global": 64 * microbatch, "microbatch": microbatch},
        "precision": "bf16",
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.yaml"
        path.write_text(yaml.safe_dump(job))
        begin = time.perf_counter()
        compiled = compile(path, cluster, Path(folder) / "plan", Options(Sizes(stages=stages)))
        seconds = time.perf_counter() - begin
    c, plan = compiled.plan.certificate, compiled.plan
    return {
        "operators": len(compiled.graph["operators"]),
        "blocks": len(compiled.graph["problem"]["blocks"]),
        "seconds": seconds,
        "placing": c.seconds,
        "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "bottleneck": c.objective,
        "gap": c.gap,
        "proven": c.proven,
        "recomputing": sum(stage.recompute for stage in plan.stages),
    }


def met(name: str, found: dict[str, float]) -> str:
    """Whether the bars of a model hold."""
    if name not in BARS:
        return ""
    bars = zip(BARS[name], (found["seconds"], found["placing"], found["bytes"], found["gap"]), strict=True)
    return "yes" if all(bar is None or value <= bar for bar, value in bars) else "no"


def main() -> None:
    """Print the table."""
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(sys.argv[2])))
        return
    table = Table(
        "model", "cluster", "stages", "operators", "blocks", "seconds", "placing", "memory", "bottleneck", "gap", "bars met"
    )
    for name in sys.argv[1:] or MODELS:
        done = subprocess.run([sys.executable, "-m", "benchmarks.models", "--one", name], capture_output=True, text=True)
        if done.returncode:
            table.add_row(name, *[""] * 8, (done.stderr.strip().splitlines() or ["failed"])[-1], "no")
            continue
        found = json.loads(done.stdout.strip().splitlines()[-1])
        gap = "proven" if found["proven"] else f"{found['gap']:.2%}"
        figures = f"{found['seconds']:.1f}", f"{found['placing']:.1f}", f"{found['bytes'] / 1e9:.2f} GB"
        size = f"{found['operators']:,}", f"{found['blocks']:,}"
        row = MODELS[name][3], str(MODELS[name][4]), *size, *figures, f"{found['bottleneck'] * 1e3:.1f} ms", gap
        table.add_row(name, *row, met(name, found))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
