"""The tables of docs/onnx.md, from docs/figures.json."""

from benchmarks.figures import Figures
from benchmarks.markdown import in_a_cell, markdown_table


def families(figures: dict[str, Figures]) -> str:
    """What was exported, and how far the stages in onnxruntime are from the model."""
    columns = "family", "stages", "nodes", "outputs", "CPU seconds a stage", "largest difference"
    rows = [
        (
            name,
            str(row["stages"]),
            str(row["nodes"]),
            _outputs(row["outputs"]),
            f"{row['seconds']:.1f}",
            f"{row['difference']:.0e}",
        )
        for name, row in figures["onnx"].items()
        if "refused" not in row
    ]
    return markdown_table(columns, rows)


def _outputs(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"`{names[0]}`{more}"


def refused(figures: dict[str, Figures]) -> str:
    """What could not be exported, and what the command said."""
    rows = [
        (name, in_a_cell(row["refused"]))
        for name, row in figures["onnx"].items()
        if "refused" in row
    ]
    return markdown_table(("family", "what it says"), rows)


def structure(figures: dict[str, Figures]) -> str:
    """What exports without weights take."""
    columns = "model", "stages", "nodes", "CPU seconds", "memory", "files"
    rows = [
        (
            name,
            str(row["stages"]),
            f"{row['nodes']:,}",
            f"{row['seconds']:.0f}",
            f"{row['bytes'] / 1e9:.1f} GB",
            f"{row['file_bytes'] / 1e6:.1f} MB",
        )
        for name, row in figures["onnx_structure"].items()
    ]
    return markdown_table(columns, rows)
