"""The tables of README and of pages in docs/, from what was measured and the schedules.

python -m benchmarks.tables            write them
python -m benchmarks.tables --check    say what differs, and fail
"""

import re
import sys
from collections.abc import Callable

from benchmarks import gpu_tables
from benchmarks.compiles.zoo import CONFIGURATIONS
from benchmarks.families import tables as family_tables
from benchmarks.figures import ROOT, Figures, read_figures
from benchmarks.markdown import markdown_table
from benchmarks.onnx import tables as onnx_tables
from pipecut.compiler.schedules.registry import SCHEDULES

PAGES = (
    ROOT / "README.md",
    *(ROOT / "docs" / name for name in ("measurements.md", "onnx.md", "families.md")),
)
# The rows that README keeps.
BEST = ("Llama-3-8B", "Llama-3-405B")
# Two comments around each table, which name it.
MARKED = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)


def models(figures: dict[str, Figures]) -> str:
    """Whole compiles."""
    return table(figures["models"], tuple(CONFIGURATIONS))


def best(figures: dict[str, Figures]) -> str:
    """The rows of BEST."""
    return table(figures["models"], BEST)


def table(rows: Figures, names: tuple[str, ...]) -> str:
    """A row for each name; one that was not measured is left out."""
    columns = (
        *("configuration", "GPUs", "operators", "seconds", "placing", "memory"),
        *("predicted step", "gap"),
    )
    measured = {name: rows[name] for name in names if name in rows}
    cells = [
        (
            name,
            CONFIGURATIONS[name].gpus,
            f"{row['operators']:,}",
            f"{row['seconds']:.0f}",
            f"{row['placing']:.1f}",
            f"{row['bytes'] / 1e9:.1f} GB",
            f"{row['step_seconds']:.2f} s",
            "proven optimal" if row["proven"] else f"{row['gap']:.2%}",
        )
        for name, row in measured.items()
    ]
    return markdown_table(columns, cells)


def schedules(figures: dict[str, Figures]) -> str:
    """What every schedule says of itself."""
    columns = (
        "`schedule:`",
        "stages per device",
        "idle time, in forwards and backwards of a microbatch, of p ranks",
        "activations held",
    )
    rows = [
        (
            f"`{name}`",
            str(schedule.stages_per_rank or "`stages_per_rank`"),
            schedule.idle,
            schedule.activations,
        )
        for name, schedule in SCHEDULES.items()
    ]
    return markdown_table(columns, rows)


def lengths(figures: dict[str, Figures]) -> str:
    """Steps of listed samples beside padded ones."""
    columns = "model", "exact", "predicted step beside its tokens alone", "padded: seconds", "CPU s"
    rows = [
        (
            name,
            "yes" if row["exact"] else "no",
            f"{row['overhead']:.3f}, at most {row['worst_overhead']:.3f}",
            f"{row['faster']:.2f} x",
            f"{row['less_cpu']:.2f} x",
        )
        for name, row in figures["lengths"].items()
    ]
    return markdown_table(columns, rows)


TABLES: dict[str, Callable[[dict[str, Figures]], str]] = {
    "models": models,
    "best": best,
    "schedules": schedules,
    "lengths": lengths,
    "onnx": onnx_tables.families,
    "onnx_refused": onnx_tables.refused,
    "onnx_structure": onnx_tables.structure,
    "gpu_numbers": gpu_tables.numbers,
    "gpu_memory": gpu_tables.memory,
    "gpu_rates": gpu_tables.rates,
    **family_tables.TABLES,
}


def with_tables(text: str, figures: dict[str, Figures]) -> str:
    """A page with its marked tables as the figures make them."""

    def rewritten(match: re.Match[str]) -> str:
        return f"{match[1]}{TABLES[match[2]](figures)}\n{match[3]}"

    return MARKED.sub(rewritten, text)


def main() -> None:
    """Write the pages, or fail where one would change."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        written = with_tables(text, read_figures())
        if "--check" not in sys.argv[1:]:
            page.write_text(written, encoding="utf-8")
        elif written != text:
            sys.exit(f"{page.name} has other tables: run python -m benchmarks.tables")


if __name__ == "__main__":
    main()
