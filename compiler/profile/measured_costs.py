"""Measured seconds that a compile may use: of a profile, or of a run's report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipecut.compiler.graph import Graph
from pipecut.compiler.inputs.document.read import read_text
from pipecut.compiler.profile.scaled import Seconds as OperatorSeconds
from pipecut.compiler.profile.scaled import measured_seconds
from pipecut.compiler.profile.store import default_path
from pipecut.errors import UserFileError
from pipecut.plan.schema import Seconds

# What an option of costs begins with that names a report.
REPORT = "measured:"
# Every source of costs, as --costs has it.
SOURCES = ("auto", "roofline", "profile", f"{REPORT}REPORT")


class ReportedCosts(BaseModel):
    """What a compile reads of a run's report.

    `operators` has, by device kind and operator, forward and backward seconds.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    microbatch: int = Field(ge=1)
    operators: dict[str, dict[str, tuple[Seconds, Seconds]]]


@dataclass(frozen=True)
class MeasuredCosts:
    """Where to look: a profile's file, a report as read, or neither.

    `option` is what --costs says.
    """

    option: str = "roofline"
    profile: Path | None = None
    report: ReportedCosts | None = None

    @property
    def required(self) -> bool:
        """Whether a device without measurements is refused; else its costs are estimated."""
        return self.option not in ("auto", "roofline")

    def seconds(
        self, graph: Graph, microbatch: int, kinds: Sequence[str]
    ) -> Mapping[str, OperatorSeconds]:
        """Forward and backward seconds of every operator, for each kind that has them all."""
        if self.profile is not None:
            return measured_seconds(graph, microbatch, kinds, self.profile)
        if self.report is None or self.report.microbatch != microbatch:
            return {}
        seconds = {}
        for kind, by_name in self.report.operators.items():
            rows = [by_name.get(operator.name) for operator in graph.operators]
            if kind in kinds and None not in rows:
                seconds[kind] = [row for row in rows if row is not None]
        return seconds


def refuse_unknown_source(option: str) -> None:
    """Raises UserFileError for what is no source of costs, and for `measured:` without a file."""
    if option == REPORT:
        raise UserFileError(
            f"--costs {option}: names no file; give {REPORT}REPORT, such as {REPORT}report.json, "
            "which pipecut run PLAN --report report.json writes"
        )
    if not isinstance(option, str) or not (option in SOURCES or option.startswith(REPORT)):
        raise UserFileError(f"--costs {option}: must be {' or '.join(SOURCES)}")


def measured_costs(option: str, profile: Path | None) -> MeasuredCosts:
    """For auto, roofline, profile or measured:FILE. Raises UserFileError."""
    refuse_unknown_source(option)
    if option == "roofline":
        return MeasuredCosts(option)
    if not option.startswith(REPORT):
        return MeasuredCosts(option, profile or default_path())
    path = Path(option.removeprefix(REPORT))
    try:
        report = ReportedCosts.model_validate_json(read_text(path))
    except ValidationError:
        raise UserFileError(
            f"--costs {option}: {path} is no report; pipecut run PLAN --report FILE writes one"
        ) from None
    return MeasuredCosts(option, report=report)
