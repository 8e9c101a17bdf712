"""Times from the environment: refused where they are no numbers of seconds."""

from datetime import timedelta

import pytest

from pipecut.errors import UserFileError
from pipecut.runtime.health import timeouts

VARIABLES = {
    "PIPECUT_STALL_TIMEOUT": timeouts.stall_timeout,
    "PIPECUT_SILENCE_TIMEOUT": timeouts.silence_timeout,
    "PIPECUT_START_TIMEOUT": timeouts.start_timeout,
    "PIPECUT_SAVE_TIMEOUT": timeouts.save_timeout,
}


@pytest.mark.parametrize("variable", VARIABLES)
def test_each_part_of_a_run_has_its_own_limit(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "12.5")
    assert VARIABLES[variable]() == 12.5
    monkeypatch.setenv(variable, " ")
    assert VARIABLES[variable]() > 12.5


def test_a_transfer_has_its_limit_as_a_duration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPECUT_TIMEOUT", "7")
    assert timeouts.transfer_timeout() == timedelta(seconds=7)


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", "inf", "1e12"])
def test_other_values_are_refused_with_an_example(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPECUT_STALL_TIMEOUT", text)
    with pytest.raises(UserFileError, match=f"PIPECUT_STALL_TIMEOUT={text}.*such as 240; or unset"):
        timeouts.stall_timeout()
