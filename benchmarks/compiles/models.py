"""Whole compiles of published configurations and of the examples: seconds, memory, and what is proven.

python -m benchmarks.compiles.models [NAME ...]             into docs/figures.json, which tables are made from
python -m benchmarks.compiles.models --check [NAME ...]     compare what does not depend on the machine with that file, and fail
python -m benchmarks.compiles.models --check --fast         the small ones alone

Each is compiled in a process of its own, so that its memory is its own.
"""

import json
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

# Bars: seconds of the whole compile, of placing, bytes, gap. Those of other models are not set.
BARS = {"Llama-3-70B": (30.0, 5.0, 2e9, 0.01), "Llama-3-405B": (60.0, None, None, 0.01)}
# Examples that are no row of the table of compiles, with a cluster and stages.
EXAMPLES = {"demo.yaml": ("rtx-4090x4", 2), "gpt2-tiny.yaml": ("rtx-4090x4", 2)}
FAST = (*EXAMPLES, "ViT-H")
# What a compile gives on any machine; of some the part that they may be apart, since solvers stop by the clock.
SAME = ("operators", "stages", "replicas", "boundary_bytes", "recomputing", "proven")
WITHIN = {"step_seconds": 0.01, "bottleneck": 0.01}


def compiled(name: str) -> dict[str, Any]:
    """Compile one here."""
    with tempfile.TemporaryDirectory() as folder:
        path, cluster, sizes = _job(name, Path(folder))
        begin = time.perf_counter()
        plan = compile(path, cluster, Path(folder) / "plan", Options(sizes))
        seconds = time.perf_counter() - begin
    facts, certificate = plan.plan, plan.plan.certificate
    return {
        "torch": facts.torch.split("+")[0],
        "operators": len(plan.graph.operators),
        "stages": len(facts.stages),
        "replicas": facts.replicas,
        "boundary_bytes": sum(
            t.bytes_for(facts.batch.microbatch) for b in facts.boundaries for t in b.tensors
        ),
        "recomputing": sum(stage.recompute for stage in facts.stages),
        "proven": certificate.proven,
        "gap": certificate.gap,
        "bottleneck": certificate.objective,
        "step_seconds": facts.prediction.step_seconds,
        "seconds": seconds,
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


def changes(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Figures of any machine that are not what the file says; another release of torch traces other operators."""
    same = SAME if expected["torch"] == found["torch"] else ("stages", "replicas")
    worse = found["gap"] > expected["gap"] + 0.002
    kept = {name: expected[name] for name in (*same, *WITHIN)}
    told = differing(kept, found, WITHIN)
    return told + (
        [f"gap: {expected['gap']:.2%} in the file, {found['gap']:.2%} now"] if worse else []
    )


def met(name: str, found: dict[str, float]) -> str:
    """Whether the bars of a model hold."""
    if name not in BARS:
        return ""
    bars = zip(
        BARS[name], (found["seconds"], found["placing"], found["bytes"], found["gap"]), strict=True
    )
    return "yes" if all(bar is None or value <= bar for bar, value in bars) else "no"


def main() -> None:
    """Print the table; write the file, or compare with it."""
    options = [a for a in sys.argv[1:] if a.startswith("--")]
    names = [a for a in sys.argv[1:] if not a.startswith("--")]
    if "--one" in options:
        print(json.dumps(compiled(names[0])))
        return
    names = names or ([*FAST] if "--fast" in options else [*EXAMPLES, *CONFIGURATIONS])
    table = Table(
        "model",
        "stages",
        "operators",
        "seconds",
        "placing",
        "memory",
        "bottleneck",
        "step",
        "gap",
        "bars met",
    )
    rows: Figures = {}
    wrong: list[str] = []
    for name in names:
        done = subprocess.run(
            [sys.executable, "-m", __spec__.name, "--one", name], capture_output=True, text=True
        )
        if done.returncode:
            wrong.append(f"{name}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
            continue
        found = rows[name] = json.loads(done.stdout.strip().splitlines()[-1])
        gap = "proven" if found["proven"] else f"{found['gap']:.2%}"
        figures = (
            f"{found['seconds']:.1f}",
            f"{found['placing']:.1f}",
            f"{found['bytes'] / 1e9:.2f} GB",
        )
        stages = f"{found['stages']} x {found['replicas']}", f"{found['operators']:,}"
        times = f"{found['bottleneck'] * 1e3:.1f} ms", f"{found['step_seconds']:.2f} s"
        table.add_row(name, *stages, *figures, *times, gap, met(name, found))
    Console(width=160).print(table)
    if "--check" in options:
        known = read_figures()["models"]
        wrong += [
            f"{name}: {text}"
            for name, found in rows.items()
            for text in changes(known[name], found)
        ]
    else:
        write_figures("models", rows)
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
