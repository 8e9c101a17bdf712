"""Measured seconds that a compile may use: of a profile, or of a run's report."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipecut.compiler.document import read_text
from pipecut.compiler.graph import Graph
from pipecut.compiler.profile import Seconds, default_path, measured_seconds
from pipecut.errors import UserFileError

MEASURED = "measured:"


@dataclass(frozen=True)
class Known:
    """Where to look: a profile's file, a report as read, or neither."""

    profile: Path | None = None
    report: dict[str, Any] | None = None

    def seconds(self, graph: Graph, microbatch: int, kinds: list[str]) -> dict[str, Seconds]:
        """Forward and backward seconds of every operator, for each kind that has them all."""
        if self.profile is not None:
            return measured_seconds(graph, microbatch, kinds, self.profile)
        if self.report is None or self.report["microbatch"] != microbatch:
            return {}
        found = {}
        for kind, by_name in self.report["operators"].items():
            rows = [by_name.get(operator.name) for operator in graph.operators]
            if kind in kinds and all(row is not None for row in rows):
                found[kind] = [(float(row[0]), float(row[1])) for row in rows if row is not None]
        return found


def known_costs(costs: str, profile: Path | None) -> Known:
    """For auto, roofline, profile or measured:FILE. Raises UserFileError."""
    if costs == "roofline":
        return Known()
    if not costs.startswith(MEASURED):
        return Known(profile or default_path())
    path = Path(costs.removeprefix(MEASURED))
    try:
        report = json.loads(read_text(path))
        if not isinstance(report["microbatch"], int) or not isinstance(report["operators"], dict):
            raise TypeError
    except (json.JSONDecodeError, KeyError, TypeError):
        raise UserFileError(f"--costs {costs}: {path} is no report; pipecut run PLAN --report FILE writes one") from None
    return Known(report=report)
