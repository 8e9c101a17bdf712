"""Export a model of any size without weights: seconds and memory.

python -m benchmarks.onnx.structure     write what it takes to docs/figures.json
"""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx

from benchmarks.figures import ROOT, write_figures
from pipecut.onnx.manifest import read_manifest

# Name: an example and a cluster.
MODELS = {"Llama-3-70B": ("llama-70b.yaml", "hgx-h100-x8")}


def _run(*arguments: str) -> resource.struct_rusage:
    """Run a command of pipecut. Returns what its process took."""
    process = subprocess.Popen([sys.executable, "-m", "pipecut", *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"pipecut {' '.join(arguments)} failed")
    return usage


def main() -> None:
    """Compile, export in a process of its own, write."""
    for name, (job, cluster) in MODELS.items():
        with tempfile.TemporaryDirectory() as scratch:
            plan, output = Path(scratch) / "plan", Path(scratch) / "onnx"
            _run("compile", str(ROOT / "examples" / job), "--cluster", cluster, "-o", str(plan))
            usage = _run("export-onnx", str(plan), "-o", str(output), "--weights", "none")
            stages = read_manifest(output).stages
            files = [output / stage.file for stage in stages]
            graphs = [onnx.load(file, load_external_data=False).graph for file in files]
            row = {
                "stages": len(stages),
                "nodes": sum(len(graph.node) for graph in graphs),
                "seconds": usage.ru_utime + usage.ru_stime,
                "bytes": usage.ru_maxrss * 1024,
                "file_bytes": sum(file.stat().st_size for file in files),
            }
        write_figures("onnx_structure", {name: row})
        print(f"{name}: {row}")


if __name__ == "__main__":
    main()
