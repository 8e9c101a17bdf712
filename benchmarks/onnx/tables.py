"""The tables of docs/onnx.md, from docs/figures.json."""

from benchmarks.figures import Figures


def families(figures: dict[str, Figures]) -> str:
    """What was exported, and how far the stages in onnxruntime are from the model."""
    lines = [
        "| family | stages | nodes | outputs | CPU seconds a stage | largest difference |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in figures["onnx"].items():
        if "refused" not in row:
            outputs = row["outputs"]
            more = f" and {len(outputs) - 1} more" if len(outputs) > 1 else ""
            cells = [
                name,
                str(row["stages"]),
                str(row["nodes"]),
                f"`{outputs[0]}`{more}",
                f"{row['seconds']:.1f}",
                f"{row['difference']:.0e}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def refused(figures: dict[str, Figures]) -> str:
    """What could not be exported, and what the command said."""
    lines = ["| family | what it says |", "|---|---|"]
    for name, row in figures["onnx"].items():
        if "refused" in row:
            lines.append(f"| {name} | {row['refused'].replace('|', ' ').replace('<', '&lt;')} |")
    return "\n".join(lines)


def structure(figures: dict[str, Figures]) -> str:
    """What exports without weights take."""
    lines = [
        "| model | stages | nodes | CPU seconds | memory | files |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in figures["onnx_structure"].items():
        sizes = f"{row['bytes'] / 1e9:.1f} GB", f"{row['file_bytes'] / 1e6:.1f} MB"
        cells = [name, str(row["stages"]), f"{row['nodes']:,}", f"{row['seconds']:.0f}", *sizes]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
