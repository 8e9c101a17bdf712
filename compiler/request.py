"""What a compile is asked for, and what it returns."""

from dataclasses import dataclass, field
from pathlib import Path

from pipecut.compiler.inputs.job import Job, read_job
from pipecut.compiler.partition.place import SolverOptions
from pipecut.compiler.profile.measured_costs import (
    MeasuredCosts,
    measured_costs,
    refuse_unknown_source,
)
from pipecut.compiler.search.sizes import SizeOverrides
from pipecut.compiler.search.trial import Sensitivity, Trial
from pipecut.errors import UserFileError
from pipecut.plan.folder import PlanFolder


@dataclass(frozen=True)
class Options:
    """What the command line may add to the job file.

    `sizes` stand over the job file's. `explain` also compares what would be compiled without a
    search. `costs` are measured ones where the profile has them (auto), only estimates (roofline),
    only measured ones (profile), or those of a run's report (measured:FILE); `profile` is the file
    of measurements. `lost` devices, counted from 0 as in the cluster file, are left out. `layout`
    stands over the job file's. `trust_trace` leaves out running the trace beside the model.
    Raises UserFileError for what is none of these.
    """

    sizes: SizeOverrides = field(default_factory=SizeOverrides)
    explain: bool = False
    costs: str = "auto"
    profile: Path | None = None
    solving: SolverOptions = field(default_factory=SolverOptions)
    lost: tuple[int, ...] = ()
    layout: str | None = None
    trust_trace: bool = False

    def __post_init__(self) -> None:
        refuse_unknown_source(self.costs)
        numbers = self.lost if isinstance(self.lost, list | tuple) else None
        if numbers is None or not all(type(n) is int and n >= 0 for n in numbers):
            raise UserFileError(
                f"lost {self.lost!r}: must be a tuple of device numbers from 0, such as (0, 2)"
            )

    def measured_costs(self) -> MeasuredCosts:
        """Where to look for measured seconds. Raises UserFileError."""
        return measured_costs(self.costs, self.profile)


@dataclass(frozen=True)
class Request:
    """A job file, a cluster file or name, and the folder to write the plan to."""

    job: Path
    cluster: str
    output: Path
    options: Options = field(default_factory=Options)

    def read_job(self) -> Job:
        """The job, with the layout of the options in place of its own. Raises UserFileError."""
        return read_job(self.job, self.options.layout)


@dataclass(frozen=True)
class Compiled:
    """The plan as written; where candidates were compared, all of them, the best first.

    `sensitivities` are there where the choice was to be explained.
    """

    folder: PlanFolder
    trials: tuple[Trial, ...] = ()
    sensitivities: tuple[Sensitivity, ...] = ()
