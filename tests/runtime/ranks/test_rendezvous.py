"""Ranks of one attempt find each other, whatever earlier attempts left in the store."""

import threading
from typing import Any

import pytest
from torch._C._distributed_c10d import HashStore, Store

from pipecut.errors import RunError
from pipecut.runtime.ranks.roll_call import RankProcess, Roll, call_roll


def attempt(store: Store, ranks: list[int], size: int, limit: float = 10) -> dict[int, Any]:
    """What the roll call returns or raises on each of these ranks."""
    results: dict[int, Any] = {}

    def take_part(rank: int) -> None:
        try:
            results[rank] = call_roll(store, rank, size, RankProcess(f"host{rank}", rank), limit)
        except RunError as error:
            results[rank] = error

    threads = [threading.Thread(target=take_part, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_every_rank_learns_of_all() -> None:
    rolls = attempt(HashStore(), [0, 1, 2], 3)
    assert len({roll.attempt for roll in rolls.values()}) == 1
    assert all(roll.hosts == ["host0", "host1", "host2"] for roll in rolls.values())


@pytest.mark.parametrize("came_before", [[0, 1, 2], [1], [0, 2], [1, 2]])
def test_an_earlier_attempt_is_not_taken_for_this_one(came_before: list[int]) -> None:
    store = HashStore()
    before = attempt(store, came_before, 3, 0.1 if len(came_before) < 3 else 10)
    after = attempt(store, [0, 1, 2], 3)
    assert all(isinstance(roll, Roll) for roll in after.values())
    assert len({roll.attempt for roll in after.values()}) == 1
    earlier = {roll.attempt for roll in before.values() if isinstance(roll, Roll)}
    assert not earlier & {roll.attempt for roll in after.values()}


def test_ranks_that_do_not_come_are_named() -> None:
    errors = attempt(HashStore(), [0, 2], 4, 0.1)
    assert all("ranks 1, 3 of 4 did not come within 0.1 s" in str(e) for e in errors.values())
