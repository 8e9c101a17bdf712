"""An export as a table for people."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipecut.onnx.manifest import ExportedStage, Manifest, Port
from pipecut.quantities import show_bytes


def print_exported(manifest: Manifest, folder: Path, console: Console) -> None:
    """The stages, what they take and give, and what to do next."""
    table = Table("file", "modules", "takes", "gives", "bytes")
    for stage in manifest.stages:
        table.add_row(
            stage.file,
            ", ".join(stage.modules),
            "\n".join(map(_text, stage.inputs)),
            "\n".join(map(_text, stage.outputs)),
            show_bytes(_bytes(folder, stage)),
        )
    console.print(table)
    console.print(f"values: {manifest.weights}")
    for name, reason in manifest.left_out.items():
        console.print(f"left out: {name}: {reason}")
    for stage_index in manifest.without_file:
        console.print(
            f"note: stage {stage_index} computes nothing that the outputs need, so it has no file"
        )
    if [output.name for output in manifest.outputs] == ["loss"]:
        console.print(
            "note: the model returns nothing but its loss, so that is what the stages give; "
            "for predictions have its forward return them beside the loss"
        )
    if manifest.batch != "any":
        console.print(f"note: the model fixes its batch size: give {manifest.batch} samples")
    console.print(f"written to {folder}/; {folder}/manifest.json says what feeds what")


def _text(port: Port) -> str:
    return f"{port.name} {port.dtype}[{', '.join(map(str, port.shape))}]"


def _bytes(folder: Path, stage: ExportedStage) -> int:
    files = [folder / name for name in (stage.file, stage.data) if name is not None]
    return sum(file.stat().st_size for file in files if file.is_file())
