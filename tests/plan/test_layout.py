"""Ranks, places, stages and replicas belong together in one way."""

from hypothesis import given
from hypothesis import strategies as st

from pipecut.plan.layout import Place, RankLayout


def test_replicas_of_a_pipeline_rank_are_neighbours() -> None:
    layout = RankLayout((0, 1, 2), replicas=2)
    assert [layout.replica_ranks(p) for p in range(3)] == [[0, 1], [2, 3], [4, 5]]
    assert [layout.pipeline(replica) for replica in range(2)] == [[0, 2, 4], [1, 3, 5]]
    assert layout.place(3) == Place(1, 1) and layout.rank_of(2, replica=1) == 5


def test_stages_may_share_a_rank() -> None:
    v_shaped = RankLayout((0, 1, 1, 0), replicas=3)
    assert (v_shaped.pipeline_ranks, v_shaped.size) == (2, 6)
    assert v_shaped.stages_of(0) == [0, 3] and v_shaped.rank_of(3, replica=2) == 2
    assert [v_shaped.changes_rank(boundary) for boundary in range(3)] == [True, False, True]


@given(st.integers(1, 9), st.integers(1, 9))
def test_every_rank_has_a_place_of_its_own(ranks: int, replicas: int) -> None:
    layout = RankLayout(tuple(range(ranks)), replicas)
    places = [layout.place(rank) for rank in range(layout.size)]
    assert [layout.rank(place) for place in places] == list(range(ranks * replicas))
    assert set(places) == {Place(p, r) for p in range(ranks) for r in range(replicas)}
