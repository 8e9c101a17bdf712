"""`pipecut export` and `pipecut export-onnx`: a plan or its weights for others."""

from pathlib import Path
from typing import Annotated

import typer

from pipecut.commands.options import PlanArgument, TrustOption
from pipecut.commands.trusted import read_trusted
from pipecut.console import console, progress_line
from pipecut.quantities import counted
from pipecut.run_options import CodeOption


def export(
    plan: PlanArgument,
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint, or a folder of them: then the last one.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Safetensors file to write.")
    ] = Path("model.safetensors"),
) -> None:
    """Write a checkpoint as a state dict of the unsplit model.

    Load it with load_state_dict(..., strict=True); with strict=False where the checkpoint was
    written with --trained-only.

    Example: pipecut export plan/ checkpoints/ -o model.safetensors
    """
    from pipecut.plan.folder import plan_in
    from pipecut.runtime.checkpoint.export import export as export_checkpoint

    exported = export_checkpoint(plan_in(plan), checkpoint, output)
    without = ""
    if exported.left_out:
        without = (
            f", without {counted(exported.left_out, 'frozen parameter')} that the checkpoint "
            "leaves out: load them with strict=False"
        )
    console.print(
        f"{counted(exported.tensors, 'tensor')} after step {exported.step} written to {output}"
        f"{without}"
    )


def export_onnx(
    plan: PlanArgument,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for stage_N.onnx and manifest.json.")
    ] = Path("onnx"),
    weights: Annotated[
        str | None,
        typer.Option(
            help="A checkpoint, a folder of them, safetensors, or none: the structure alone;"
            " default: what training begins with."
        ),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Run the stages in onnxruntime and compare with the unsplit model."
        ),
    ] = False,
    code: CodeOption = None,
    trusted: TrustOption = False,
) -> None:
    """Write each stage as an ONNX file for inference, and a manifest of what feeds what.

    In eval mode, for a batch of any size; weights under the model's own names. What only the loss
    needs is left out, where the model returns anything else. docs/onnx.md shows how to run them.

    Example: pipecut export-onnx plan/ --weights checkpoints/ -o onnx/ --verify
    """
    from pipecut.extras import EXPORTING, RUNNING, need

    need(EXPORTING, "pipecut export-onnx")
    if verify:
        need(RUNNING, "--verify")
    from pipecut.onnx.export import export_onnx as export_plan
    from pipecut.onnx.table import print_exported
    from pipecut.onnx.values import Weights

    folder = read_trusted(plan, trusted, code)
    values = Weights(folder, weights)
    if verify:
        from pipecut.onnx.compare import differences, refuse_different, refuse_incomparable

        refuse_incomparable(folder.plan, values)
    with progress_line("starting") as report:
        manifest = export_plan(folder, output, values, report)
        print_exported(manifest, output, console)
        if verify:
            report("comparing with the unsplit model")
            found = differences(folder, output, values)
    if verify:
        for difference in found:
            console.print(f"ok  {difference}")
        refuse_different(found)
