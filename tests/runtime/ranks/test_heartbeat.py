"""Which rank of a host looks at the others, and which prints, over a store in one process."""

from dataclasses import replace

from torch.distributed import HashStore

from pipecut.runtime.health.last_words import LastWords
from pipecut.runtime.health.status import Status
from pipecut.runtime.ranks.heartbeat import Heartbeat
from pipecut.runtime.ranks.roll_call import RankProcess, Roll


def test_every_rank_is_looked_at_by_another_one() -> None:
    roll = Roll("attempt", tuple(RankProcess(host, 0) for host in "aaabb"))
    beats = [Heartbeat(HashStore(), rank, roll, Status(rank)) for rank in range(5)]
    LastWords.explain = None
    assert [beat.watching for beat in beats] == [True, False, True, True, True]


def test_the_last_rank_speaks_for_its_host_where_the_first_cannot() -> None:
    roll = Roll("attempt", tuple(RankProcess("a", 0) for _ in range(2)))
    last = Heartbeat(HashStore(), 1, roll, Status(1))
    LastWords.explain = None
    assert not last._speaks() and last._speaks(blamed=0)
    last.heard[0] = replace(last.heard[0], at=last.heard[0].at - 8.0)
    assert last._speaks()
