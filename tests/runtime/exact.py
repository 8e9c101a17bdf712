"""Plans that compute what the unsplit model does: two steps in real processes."""

from pathlib import Path
from typing import Any

import pytest

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.plan.schema import Plan
from pipecut.runtime.launch.launch import launch
from pipecut.runtime.verify import verify as verifying
from tests.programs.emulated_rank import RULES


def exact_plan(
    folder: Path, job: str, cluster: str, sizes: SizeOverrides, evaluation: bool = False
) -> Plan:
    """Compile the text of a job in a folder, and compare."""
    (folder / "job.yaml").write_text(job)
    plan = compile(folder / "job.yaml", cluster, folder / "plan", Options(sizes)).plan
    result = verifying.verify(folder / "plan", steps=2, evaluation=evaluation)
    assert result.passed, result.worst
    return plan


def exact_under_rules(plan: Path, rules: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare a plan whose ranks run under these rules of NCCL."""
    monkeypatch.setenv(RULES, rules)

    def emulated(ranks: int, module: str, *given: Any, **options: Any) -> None:
        launch(ranks, "tests.programs.emulated_rank", *given, **options)

    monkeypatch.setattr(verifying, "launch", emulated)
    result = verifying.verify(plan, steps=2)
    assert result.passed, result.worst
