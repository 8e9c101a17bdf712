"""Errors name where they happened; a lost peer is told apart from a failure of the rank's own."""

import pytest

from pipecut.errors import DisagreementError, PeerLostError, PlanError, RunError
from pipecut.runtime.health.rank_errors import PEER_LOST, naming_errors, print_error
from pipecut.runtime.health.status import FOLDER


def test_an_error_of_pipecut_keeps_its_class() -> None:
    with pytest.raises(PlanError, match="^rank 1: no such plan$"), naming_errors("rank 1"):
        raise PlanError("no such plan")


@pytest.mark.parametrize("sign", PEER_LOST)
def test_a_connection_that_ends_is_a_lost_peer(sign: str) -> None:
    with pytest.raises(PeerLostError, match="^rank 1: another rank ended"), naming_errors("rank 1"):
        raise RuntimeError(f"[gloo/transport] {sign} [127.0.0.1]\nmore lines")


def test_another_error_is_named_by_its_first_line() -> None:
    with pytest.raises(RunError, match="^rank 1: ValueError: bad shape$"), naming_errors("rank 1"):
        raise ValueError("bad shape\nin many words")


@pytest.mark.parametrize(
    ("error", "environment", "printed"),
    [
        (RunError("x"), {FOLDER: "f", "LOCAL_RANK": "1"}, True),
        # The launcher reads the status of the rank that was lost.
        (PeerLostError("x"), {FOLDER: "f"}, False),
        (PeerLostError("x"), {}, True),
        (DisagreementError("x"), {"LOCAL_RANK": "0"}, True),
        (DisagreementError("x"), {"LOCAL_RANK": "1"}, False),
    ],
)
def test_what_all_ranks_know_is_printed_once(
    error: RunError,
    environment: dict[str, str],
    printed: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in (FOLDER, "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    print_error(error)
    assert capsys.readouterr().err == ("pipecut: x\n" if printed else "")
