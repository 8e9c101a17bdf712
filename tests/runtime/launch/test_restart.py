"""When a lost rank leads to a restart, and on which plan, with a launch that fails."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipecut.errors import DivergedError, RankLostError, UserFileError
from pipecut.runtime.launch import restart
from pipecut.runtime.launch.restart import run_with_restarts


class Launches:
    """Fails in the given ways, one after the other, and then succeeds."""

    def __init__(self, *errors: RankLostError) -> None:
        self.errors = list(errors)
        self.commands: list[list[str]] = []
        self.devices: list[Any] = []

    def __call__(
        self, ranks: int, module: str, command: list[str], stall: float | None, devices: Any
    ) -> None:
        assert ranks == 2 and module == "pipecut.runtime"
        self.commands.append(command)
        self.devices.append(devices)
        if self.errors:
            raise self.errors.pop(0)


def run(
    monkeypatch: pytest.MonkeyPatch,
    launches: Launches,
    restarts: int,
    replan: Any = None,
    arguments: list[str] | None = None,
) -> list[str]:
    reports: list[str] = []
    plan = SimpleNamespace(ranks=2)
    monkeypatch.setattr(restart, "launch", launches)
    monkeypatch.setattr(restart, "plan_in", lambda path: plan)
    monkeypatch.setattr(restart, "visible_devices", lambda plan, environment: "planned")
    run_with_restarts(Path("plan"), arguments or [], restarts, None, replan, reports.append)
    return reports


def test_a_run_that_ends_well_starts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    launches = Launches()
    assert run(monkeypatch, launches, 3) == []
    assert launches.commands == [["plan"]] and launches.devices == ["planned"]


def test_a_lost_rank_starts_all_again(monkeypatch: pytest.MonkeyPatch) -> None:
    launches = Launches(RankLostError("lost", 1))
    reports = run(monkeypatch, launches, 3)
    assert launches.commands == [["plan"], ["plan", "--restarted"]]
    assert reports[0] == "lost" and "on plan (1 of at most 3 restarts)" in reports[1]


def test_another_plan_leaves_out_the_lost_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    launches = Launches(RankLostError("lost", 1))
    lost: list[int] = []

    def replan(plan: Path, rank: int) -> Path:
        lost.append(rank)
        return Path("smaller")

    run(monkeypatch, launches, 1, replan)
    assert lost == [1] and launches.commands[1][0] == "smaller"


def test_restarts_end(monkeypatch: pytest.MonkeyPatch) -> None:
    launches = Launches(*(RankLostError(f"lost {n}", 1) for n in range(3)))
    with pytest.raises(RankLostError, match="lost 1"):
        run(monkeypatch, launches, 1)
    assert len(launches.commands) == 2


@pytest.mark.parametrize("code", [UserFileError.exit_code, DivergedError.exit_code])
def test_what_would_happen_again_is_not_tried_again(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    launches = Launches(RankLostError("lost", 1, code))
    with pytest.raises(RankLostError):
        run(monkeypatch, launches, 3)
    assert len(launches.commands) == 1


def test_the_users_device_takes_the_place_of_the_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    launches = Launches()
    run(monkeypatch, launches, 0, arguments=["--device", "cpu"])
    assert launches.devices == [None]
