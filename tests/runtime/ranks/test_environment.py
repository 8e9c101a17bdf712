"""Numbers of the environment, and hosts in the user's order: over a store of one process."""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import HashStore

from pipecut.errors import RunError, UserFileError
from pipecut.runtime.ranks import rendezvous
from pipecut.runtime.ranks.environment import HOSTS, STORE, number_in_environment
from pipecut.runtime.ranks.rendezvous import Rendezvous, find_ranks, order_ranks
from pipecut.runtime.ranks.roll_call import RankProcess, Roll

SECOND = timedelta(seconds=1)


@pytest.fixture(autouse=True)
def rank_2_of_4(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hosts b, b, a, a by torchrun's own order."""
    processes = tuple(RankProcess(f"{host}.cluster", n) for n, host in enumerate("bbaa"))
    found = Rendezvous(HashStore(), Roll("attempt", processes))
    monkeypatch.setattr(rendezvous, "_rendezvous", found)
    monkeypatch.delenv(STORE, raising=False)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    yield


def test_numbers_default_and_others_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert number_in_environment("LOCAL_RANK", 3) == 3 and number_in_environment("RANK", 3) == 2
    for text in ("-1", "two", "1.5", ""):
        monkeypatch.setenv("LOCAL_RANK", text)
        with pytest.raises(UserFileError, match=f"LOCAL_RANK={text} .*torchrun sets it"):
            number_in_environment("LOCAL_RANK", 3)


@pytest.mark.parametrize("as_file", [False, True])
def test_hosts_are_counted_in_the_users_order(
    as_file: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "hosts").write_text("a\nb\n")
    monkeypatch.setenv(HOSTS, str(tmp_path / "hosts") if as_file else "a,b")
    order_ranks(SECOND)
    assert os.environ["RANK"] == "0"
    everyone = rendezvous.roll()
    assert everyone is not None and [process.pid for process in everyone.processes] == [2, 3, 0, 1]
    # A second plan of this process finds them ordered.
    order_ranks(SECOND)
    assert os.environ["RANK"] == "0"


def test_hosts_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOSTS, "a,c")
    with pytest.raises(RunError, match="PIPECUT_HOSTS does not fit .* b.cluster not listed; c"):
        order_ranks(SECOND)


def test_without_a_list_ranks_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HOSTS, raising=False)
    order_ranks(SECOND)
    assert os.environ["RANK"] == "2"


def test_a_store_is_found_once_and_needs_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    first = find_ranks(2, 4, SECOND)
    assert find_ranks(2, 4, SECOND) is first
    monkeypatch.setattr(rendezvous, "_rendezvous", Rendezvous())
    assert rendezvous.roll() is None and rendezvous.second_store() is None
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserFileError, match="MASTER_ADDR and MASTER_PORT are not set"):
        find_ranks(2, 4, SECOND)
    assert isinstance(find_ranks(0, 1, SECOND), HashStore)


def test_ranks_of_one_machine_meet_at_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(rendezvous, "_rendezvous", Rendezvous())
    monkeypatch.setenv(STORE, str(tmp_path / "store"))
    store = find_ranks(0, 2, SECOND)
    store.set("key", "value")
    assert store.get("key") == b"value" and (tmp_path / "store").exists()
