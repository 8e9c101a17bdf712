"""What the launcher says of a rank that ended, and the environment that it gives each rank."""

import signal

import pytest

from pipecut.runtime.health.status import RankStatus, State
from pipecut.runtime.launch.launch import environment_of_rank, lost_rank

BETWEEN = RankStatus(1, State.BETWEEN, 3, None, 0.0)


@pytest.mark.parametrize(
    ("status", "code", "text", "exit_code"),
    [
        (BETWEEN, 4, "rank 2 ended with exit code 4 between steps 2 and 3; its own message", 4),
        (BETWEEN, 0, "rank 2 ended by itself, with exit code 0, between steps 2 and 3", 0),
        (BETWEEN, -signal.SIGTERM, "rank 2 was ended by SIGTERM between steps 2 and 3", None),
        (None, -signal.SIGKILL, "by SIGKILL before it began; the system does that when mem", None),
    ],
)
def test_the_end_of_a_rank_is_put_into_words(
    status: RankStatus | None, code: int, text: str, exit_code: int | None
) -> None:
    error = lost_rank(2, status, code)
    assert text in str(error) and (error.rank, error.exit_code_of_rank) == (2, exit_code)


def test_each_rank_is_told_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "7")
    environment = environment_of_rank(4, 2, 100.0)
    assert [environment[n] for n in ("RANK", "LOCAL_RANK")] == ["2", "2"]
    assert [environment[n] for n in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")] == ["4", "4"]


def test_the_backend_outlasts_the_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIPECUT_TIMEOUT", raising=False)
    assert float(environment_of_rank(4, 2, 100.0)["PIPECUT_TIMEOUT"]) > 100.0


def test_the_users_interface_stays_and_another_launchers_variables_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth1")
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("MASTER_ADDR", "elsewhere")
    monkeypatch.setenv("GROUP_RANK", "3")
    environment = environment_of_rank(1, 0, 1.0)
    assert environment["GLOO_SOCKET_IFNAME"] == "eth1"
    assert environment["NCCL_SOCKET_IFNAME"] == "lo"
    assert not {"TORCHELASTIC_RUN_ID", "MASTER_ADDR", "GROUP_RANK"} & set(environment)
