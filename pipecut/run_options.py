"""Options of a training run, shared by `pipecut run` and the command line of each rank."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from pipecut.device.types import TYPE_NAMES
from pipecut.errors import UserFileError
from pipecut.writable import writable_file, writable_folder

DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="module:function, an iterable of global batches; default: the job's inputs.",
    ),
]
StepsOption = Annotated[
    int, typer.Option("--steps", min=1, help="Optimizer steps, those before a checkpoint included.")
]
RateOption = Annotated[
    float | None,
    typer.Option(
        "--lr", help="Learning rate; default: the job's, or the checkpoint's with --resume."
    ),
]
ClipOption = Annotated[
    float | None,
    typer.Option(
        "--clip",
        min=0.0,
        help="Largest norm of all gradients together, 0: no limit; default: the job's.",
    ),
]
SaveOption = Annotated[
    Path | None,
    typer.Option("--save", help="Folder for the trained weights, written on Ctrl-C as well."),
]
RunDeviceOption = Annotated[
    str | None, typer.Option("--device", help=f"{TYPE_NAMES}; default: the plan's devices.")
]
TraceOption = Annotated[
    Path | None,
    typer.Option(
        "--trace", help="Chrome trace to write: the last step, predicted beside measured."
    ),
]
ReportOption = Annotated[
    Path | None,
    typer.Option("--report", help="JSON to write: predicted and measured seconds; also printed."),
]
CheckpointsOption = Annotated[Path, typer.Option("--checkpoints", help="Folder for checkpoints.")]
EveryOption = Annotated[
    int,
    typer.Option("--checkpoint-every", min=0, help="Steps between checkpoints; 0: write none."),
]
KeepOption = Annotated[
    int, typer.Option("--keep", min=1, help="Newest checkpoints to keep; older ones are removed.")
]
TrainedOnlyOption = Annotated[
    bool,
    typer.Option(
        "--trained-only",
        help="Write checkpoints without frozen parameters, which --resume takes from the plan's"
        " weights or seed again.",
    ),
]
ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Continue from the last checkpoint, of this plan or of another plan of the model.",
    ),
]

LogOption = Annotated[
    Path | None,
    typer.Option(
        "--log",
        help="Folder for a log: a line of JSON per step, and TensorBoard's events where tensorboard"
        " is installed.",
    ),
]
CodeOption = Annotated[
    Path | None,
    typer.Option(
        "--code",
        help="Where the folder of the model's code is now, with weights in it; default: where it"
        " was from the plan folder.",
    ),
]

DEFAULT_STEPS, DEFAULT_KEEP, DEFAULT_CHECKPOINTS = 10, 3, Path("checkpoints")

# Fields of RunOptions whose name is not that of their option.
OPTION_OF = {
    "rate": "--lr",
    "checkpoint_every": "--checkpoint-every",
    "trained_only": "--trained-only",
}


@dataclass(frozen=True)
class RunOptions:
    """What a user asks of a run, in the order of --help; None where an option was not given."""

    data: DataOption = None
    steps: StepsOption = DEFAULT_STEPS
    rate: RateOption = None
    clip: ClipOption = None
    save: SaveOption = None
    device: RunDeviceOption = None
    trace: TraceOption = None
    report: ReportOption = None
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS
    checkpoint_every: EveryOption = 0
    keep: KeepOption = DEFAULT_KEEP
    trained_only: TrainedOnlyOption = False
    resume: ResumeOption = False
    code: CodeOption = None
    log: LogOption = None

    def arguments(self) -> list[str]:
        """The options as the command line of a rank."""
        arguments = []
        for field in fields(self):
            value, option = getattr(self, field.name), OPTION_OF.get(field.name, f"--{field.name}")
            if value is True:
                arguments.append(option)
            elif value is not None and value is not False:
                arguments += [option, str(value)]
        return arguments

    def refuse_unwritable(self, first_rank: bool = True) -> None:
        """Raises UserFileError where the run could not write at its end what it is to write.

        Every rank writes --save; of the rest, the first rank all.
        """
        if self.save is not None:
            writable_folder(self.save, "--save")
        if not first_rank:
            return
        if self.log is not None:
            writable_folder(self.log, "--log")
        for file, option in ((self.trace, "--trace"), (self.report, "--report")):
            if file is not None:
                writable_file(file, option)

    def refuse_bad_numbers(self) -> None:
        """Raises UserFileError for a rate or norm that is negative, infinite or no number."""
        for option, number in (("--lr", self.rate), ("--clip", self.clip)):
            if number is not None and not (math.isfinite(number) and number >= 0):
                raise UserFileError(f"{option} {number}: must be a number of 0 or more")


def with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with an option for each field of its parameter that is RunOptions."""
    own = inspect.signature(command)
    of_run = inspect.signature(RunOptions).parameters
    (whole,) = (name for name, given in own.parameters.items() if given.annotation is RunOptions)
    parameters: list[inspect.Parameter] = []
    for name, parameter in own.parameters.items():
        parameters += of_run.values() if name == whole else [parameter]

    @wraps(command)
    def taking_options(**given: Any) -> None:
        options = RunOptions(**{name: given.pop(name) for name in of_run})
        command(**given, **{whole: options})

    # What typer reads the command line from.
    taking_options.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    return taking_options
