"""`pipecut predict`: outputs of a data set over a pipeline."""

from pathlib import Path
from typing import Annotated

import typer

from pipecut.commands.options import PlanArgument, TrustOption
from pipecut.commands.trusted import read_trusted
from pipecut.errors import UserFileError
from pipecut.run_options import CodeOption, RunDeviceOption
from pipecut.writable import writable_file


def predict(
    plan: PlanArgument,
    data: Annotated[
        str,
        typer.Option("--data", help="module:function, an iterable of batches of any sizes."),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The safetensors file to write.")
    ] = Path("outputs.safetensors"),
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", help="A checkpoint, or a folder of them: then the last one."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            help="A safetensors file of the model, or a folder of them; default: the"
            " parameters that the plan begins with.",
        ),
    ] = None,
    device: RunDeviceOption = None,
    code: CodeOption = None,
    trusted: TrustOption = False,
) -> None:
    """Write what the model returns beside its loss, in eval mode, of all batches in their order.

    Labels, and whatever else only the loss needs, may be missing. Outputs go to the file batch by
    batch, so that a data set need not fit in memory.

    Example: pipecut predict plan/ --data mymodel:questions --checkpoint checkpoints/
    """
    from pipecut.model.functions import find_function, places_of_data, refuse_missing_code
    from pipecut.runtime.checkpoint.folder import refuse_none
    from pipecut.runtime.inference.predict import PredictRequest
    from pipecut.runtime.inference.predict import predict as predict_batches
    from pipecut.runtime.inference.requirements import refuse_without_outputs
    from pipecut.runtime.ranks.devices import refuse_without_gpu

    if checkpoint is not None and weights is not None:
        raise UserFileError("give --checkpoint or --weights, not both")
    if checkpoint is not None:
        refuse_none(checkpoint)
    if weights is not None and not weights.exists():
        raise UserFileError(f"--weights {weights}: there is no such file or folder")
    writable_file(output, "-o")
    read = read_trusted(plan, trusted, code).plan
    refuse_without_outputs(read)
    refuse_without_gpu(read, device)
    find_function(data, places_of_data(read.model), "--data")
    if read.model.weights is None and checkpoint is None:
        refuse_missing_code(read.model.factory, read.model)
    predict_batches(PredictRequest(plan, data, output, checkpoint, weights, device, code))
