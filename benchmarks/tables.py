"""README's tables from docs/figures.json.

python -m benchmarks.tables            write them
python -m benchmarks.tables --check    say what differs, and fail
"""

import re
import sys
from collections.abc import Callable

from benchmarks.compiles.zoo import CONFIGURATIONS
from benchmarks.figures import ROOT, Figures, read_figures

README = ROOT / "README.md"
# Two comments around each table, which name it.
MARKED = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)


def models(rows: Figures) -> str:
    """Whole compiles."""
    lines = [
        "| configuration | GPUs | operators | seconds | placing | memory | predicted step | gap |",
        "|---|---|---|---|---|---|---|---|",
    ]
    # A row that was not measured is left out.
    for name, configuration in ((n, c) for n, c in CONFIGURATIONS.items() if n in rows):
        row = rows[name]
        gap = "proven optimal" if row["proven"] else f"{row['gap']:.2%}"
        seconds = f"{row['seconds']:.0f} | {row['placing']:.1f} | {row['bytes'] / 1e9:.1f} GB | {row['step_seconds']:.2f} s"
        lines.append(
            f"| {name} | {configuration.gpus} | {row['operators']:,} | {seconds} | {gap} |"
        )
    return "\n".join(lines)


TABLES: dict[str, Callable[[Figures], str]] = {"models": models}


def with_tables(text: str, figures: dict[str, Figures]) -> str:
    """A document with its marked tables as the figures make them."""

    def made(match: re.Match[str]) -> str:
        return f"{match[1]}{TABLES[match[2]](figures[match[2]])}\n{match[3]}"

    return MARKED.sub(made, text)


def main() -> None:
    """Write README, or fail where it would change."""
    text = README.read_text(encoding="utf-8")
    made = with_tables(text, read_figures())
    if "--check" not in sys.argv[1:]:
        README.write_text(made, encoding="utf-8")
    elif made != text:
        sys.exit("README.md differs from docs/figures.json: run python -m benchmarks.tables")


if __name__ == "__main__":
    main()
