"""The tables of docs/measurements.md on one GPU, and what puts a run of benchmarks.gpu in them.

python -m benchmarks.gpu_tables gpu.json ...    record what these runs measured; then run tables
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.figures import Figures, write_figures
from benchmarks.markdown import markdown_table

KINDS = ("loss", "gradient", "parameter", "buffer")


def record(paths: list[Path]) -> None:
    """Put in the parts of these runs that ended well; a later run's part replaces an earlier's."""
    rows: Figures = {}
    for path in paths:
        run = json.loads(path.read_text(encoding="utf-8"))
        for name, part in run["parts"].items():
            if "error" not in part and "skipped" not in part:
                rows[name] = {**part, "device": run["device"], "torch": run["torch"]}
    write_figures("gpu", rows)


def numbers(figures: dict[str, Figures]) -> str:
    """The largest difference of each kind from the unsplit model, on one rank and on several."""
    rows = []
    labels = {
        "one_device": "four stages on one rank, {}",
        "families": "{}, bf16, one rank",
        "two_ranks": "GPT-2, two NCCL ranks, `{}`",
        "four_ranks": "GPT-2, four NCCL ranks, `{}`",
    }
    for part, label in labels.items():
        for name, result in measured(figures, part).items():
            passed = "yes" if result["passed"] else "**no**"
            cells = [f"{result[kind]:.1e}" if kind in result else "" for kind in KINDS]
            rows.append([label.format(name), passed, *cells])
    return markdown_table(("what", "passed", *KINDS), rows)


def memory(figures: dict[str, Figures]) -> str:
    """The predicted peak beside the measured one."""
    columns = (
        *("model", "predicted", "measured, less workspaces", "predicted / measured"),
        "workspaces",
    )
    rows = [
        (
            name,
            f"{result['predicted'] / 1e6:.1f} MB",
            f"{result['measured'] / 1e6:.1f} MB",
            f"{result['predicted over measured']:.3f}",
            f"{result['workspaces'] / 1e6:.1f} MB",
        )
        for name, result in measured(figures, "memory").items()
    ]
    return markdown_table(columns, rows)


def rates(figures: dict[str, Figures]) -> str:
    """What calibrate measures beside a large product, and a step beside the unsplit model's."""
    rows = []
    calibrated, steps = measured(figures, "calibrate"), measured(figures, "one_device")
    if calibrated:
        cells = [f"{calibrated[name]['calibrate'] / 1e12:.1f} TFLOP/s" for name in ("fp32", "bf16")]
        rows.append(["`pipecut calibrate`", *cells])
        cells = [f"{calibrated[name]['calibrate over it']:.3f}" for name in ("fp32", "bf16")]
        rows.append(["over a product of 8,192 cubed", *cells])
    if steps:
        cells = [f"{steps[name]['step over unsplit']:.3f}" for name in ("fp32", "bf16")]
        rows.append(["step of four stages on one rank / unsplit model's step", *cells])
    return markdown_table(("what", "float32", "bf16"), rows)


def measured(figures: dict[str, Figures], part: str) -> dict[str, dict[str, Any]]:
    """The results of a part, by name; what is said of the part itself is left out."""
    rows = figures.get("gpu", {}).get(part, {})
    return {name: result for name, result in rows.items() if isinstance(result, dict)}


if __name__ == "__main__":
    record([Path(path) for path in sys.argv[1:]])
