"""Export many families as ONNX, and run the stages in onnxruntime beside the unsplit model.

python -m benchmarks.onnx [NAME ...]     measure what docs/figures.json lacks, or NAME, and write it
python -m benchmarks.onnx --again        measure all anew

Each family is exported in a process of its own and written when it is done, so that a benchmark
that was stopped goes on where it was.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.families.outcome import shortened
from benchmarks.figures import read_figures, write_figures
from benchmarks.onnx.families import FAMILIES
from benchmarks.slow_cores import SLOW_CORES, STAGES
from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.errors import PipecutError
from pipecut.onnx.compare import TOLERANCE, differences
from pipecut.onnx.export import export_onnx
from pipecut.onnx.values import Weights


def measured(name: str) -> dict[str, Any]:
    """The figures of a family, or the reason why it cannot be exported."""
    factory, inputs, loss = FAMILIES[name]
    job = {
        "model": {"factory": f"benchmarks.onnx.families:{factory}"},
        "inputs": f"benchmarks.onnx.families:{inputs}",
        "batch": {"global": 8, "microbatch": 4},
        **({"loss": f"benchmarks.onnx.families:{loss}"} if loss else {}),
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "job.yaml").write_text(yaml.safe_dump(job), encoding="utf-8")
        (folder / "cluster.yaml").write_text(SLOW_CORES, encoding="utf-8")
        options = Options(SizeOverrides(stages=STAGES), costs="roofline")
        try:
            plan = compile(
                folder / "job.yaml", str(folder / "cluster.yaml"), folder / "plan", options
            )
        except PipecutError as error:
            return {"refused": shortened(f"compile: {error}")}
        weights = Weights(plan, None)
        begin = time.process_time()
        try:
            manifest = export_onnx(plan, folder / "onnx", weights, lambda _: None)
            seconds = time.process_time() - begin
            found = differences(plan, folder / "onnx", weights)
        except PipecutError as error:
            return {"refused": shortened(str(error))}
        graphs = [onnx.load(folder / "onnx" / s.file).graph for s in manifest.stages]
    return {
        "stages": len(manifest.stages),
        "nodes": sum(len(graph.node) for graph in graphs),
        "outputs": [output.name for output in manifest.outputs],
        "batch": manifest.batch,
        "seconds": seconds / len(manifest.stages),
        "difference": max(difference.largest for difference in found),
    }


def main() -> None:
    """Measure, write after each family, print."""
    options = [a for a in sys.argv[1:] if a.startswith("--")]
    names = [a for a in sys.argv[1:] if not a.startswith("--")]
    if "--one" in options:
        print(json.dumps(measured(names[0])))
        return
    wrong: list[str] = []
    known = {} if "--again" in options else read_figures().get("onnx", {})
    for name in names or [name for name in FAMILIES if name not in known]:
        command = [sys.executable, "-m", "benchmarks.onnx", "--one", name]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            wrong.append(f"{name}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
            continue
        write_figures("onnx", {name: json.loads(done.stdout.strip().splitlines()[-1])})
        print(f"{name}: done", flush=True)
    table = Table("family", "stages", "nodes", "seconds a stage", "largest difference")
    rows = read_figures()["onnx"]
    for name, row in rows.items():
        if "refused" in row:
            table.add_row(name, "", "", "", row["refused"])
            continue
        figures = str(row["stages"]), str(row["nodes"]), f"{row['seconds']:.1f}"
        table.add_row(name, *figures, f"{row['difference']:.0e}")
    Console(width=160).print(table)
    beyond = [name for name, row in rows.items() if row.get("difference", 0) > TOLERANCE]
    wrong += [f"{name}: beyond {TOLERANCE:g}" for name in beyond]
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
