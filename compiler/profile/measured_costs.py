"""Measured seconds that a compile may use: of a profile, or of a run's report."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipecut.compiler.graph import Graph
from pipecut.compiler.inputs.document.read import read_text
from pipecut.compiler.profile.profile import Seconds as OperatorSeconds
from pipecut.compiler.profile.profile import measured_seconds
from pipecut.compiler.profile.store import default_path
from pipecut.errors import UserFileError
from pipecut.plan.schema import Seconds

MEASURED = "measured:"


class ReportedCosts(BaseModel):
    """What a compile reads of a run's report: by device kind and operator, its forward and backward seconds."""

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
        self, graph: Graph, microbatch: int, kinds: list[str]
    ) -> dict[str, OperatorSeconds]:
        """Forward and backward seconds of every operator, for each kind that has them all."""
        if self.profile is not None:
            return measured_seconds(graph, microbatch, kinds, self.profile)
        if self.report is None or self.report.microbatch != microbatch:
            return {}
        found = {}
        for kind, by_name in self.report.operators.items():
            rows = [by_name.get(operator.name) for operator in graph.operators]
            if kind in kinds and None not in rows:
                found[kind] = [row for row in rows if row is not None]
        return found


def measured_costs(costs: str, profile: Path | None) -> MeasuredCosts:
    """For auto, roofline, profile or measured:FILE. Raises UserFileError."""
    if costs == "roofline":
        return MeasuredCosts(costs)
    if not costs.startswith(MEASURED):
        return MeasuredCosts(costs, profile or default_path())
    path = Path(costs.removeprefix(MEASURED))
    try:
        report = ReportedCosts.model_validate_json(read_text(path))
    except ValidationError:
        raise UserFileError(
            f"--costs {costs}: {path} is no report; pipecut run PLAN --report FILE writes one"
        ) from None
    return MeasuredCosts(costs, report=report)
