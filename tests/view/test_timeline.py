"""The lanes of a step, the columns that hold them, and the columns' size."""

import pytest

from pipecut.plan.actions import Compute
from pipecut.view.columns import column
from pipecut.view.sources import Sources
from pipecut.view.timeline import COMPUTES, KINDS, Lanes, timeline_of
from tests.view.columns import numbers
from tests.view.made import made_sources
from tests.view.made_step import made_run, made_step


def events_of(lanes: Lanes, lane: int, tick: float) -> list[tuple[str, float, float]]:
    """Text, start and end of a lane's events."""
    columns = lanes.kind, lanes.stage, lanes.microbatch, lanes.start, lanes.end
    first, end = lanes.first[lane], lanes.first[lane + 1]
    return [
        (f"{KINDS[kind]} {stage - 1}.{microbatch - 1}", start * tick, stop * tick)
        for kind, stage, microbatch, start, stop in zip(*map(numbers, columns), strict=True)
    ][first:end]


def test_a_column_takes_no_more_bytes_than_its_numbers_need() -> None:
    for values, size in (([], 1), ([0, 255], 1), ([256, 3], 2), ([65_536], 4), ([2**32 - 1], 4)):
        packed = column(values)
        assert (packed.bytes, numbers(packed)) == (size, values)


def test_a_number_beyond_a_column_is_no_other_number() -> None:
    with pytest.raises(OverflowError):
        column([2**32])


def test_a_lane_has_what_its_rank_computes_in_order() -> None:
    sources = made_sources()
    view = timeline_of(sources)
    for rank, row in enumerate(sources.folder.actions):
        events = events_of(view.predicted.computes, rank, view.tick)
        assert [name for name, _, _ in events] == [str(a) for a in row if isinstance(a, Compute)]
    starts = {name: start for name, start, _ in events_of(view.predicted.computes, 1, view.tick)}
    expected = {
        str(event.action): event.start for event in sources.timeline.events if event.rank == 1
    }
    assert all(start == pytest.approx(expected[name], abs=1e-8) for name, start in starts.items())


def test_messages_have_lanes_of_their_own() -> None:
    view = timeline_of(made_sources())
    names = [name for name, _, _ in events_of(view.predicted.sends, 0, view.tick)]
    assert names == ["SEND_F 0.0", "SEND_F 0.1"]


def test_the_ranks_bubbles_are_the_plan_s() -> None:
    folder = made_step()
    view = timeline_of(Sources(folder))
    assert sum(view.predicted.bubbles) / 4 == pytest.approx(folder.plan.prediction.bubble)


def test_the_critical_path_fills_the_step() -> None:
    view = timeline_of(Sources(made_step()))
    assert sum(part.seconds for part in view.predicted.path) == pytest.approx(
        view.predicted.seconds
    )
    assert view.predicted.path[0].kind == "B"
    marked = sum(numbers(view.predicted.computes.critical))
    # Every second is one of a forward, of a backward of two, or of next to nothing.
    computes = [part for part in view.predicted.path if part.kind in COMPUTES]
    assert marked >= sum(part.seconds for part in computes) / 2


def test_a_run_has_a_lane_per_rank_on_the_same_scale() -> None:
    sources = made_run(made_step())
    view = timeline_of(sources)
    assert view.measured is not None
    assert view.measured.seconds > view.predicted.seconds
    name, start, end = events_of(view.measured.computes, 2, view.tick)[0]
    assert name == "F 2.0" and end - start == pytest.approx(1.25, rel=1e-6)
    assert view.measured.bubbles != view.predicted.bubbles


def test_without_a_trace_nothing_is_measured() -> None:
    assert timeline_of(made_sources()).measured is None


def test_replicas_share_a_predicted_lane() -> None:
    folder = made_step(2)
    plan = folder.plan.model_copy(update={"replicas": 2})
    view = timeline_of(Sources(type(folder)(folder.path, plan, folder.actions, folder.graph)))
    assert view.ranks == ((0, 1), (2, 3)) and len(view.predicted.bubbles) == 2


def test_an_event_takes_few_bytes_of_the_page() -> None:
    lanes = timeline_of(Sources(made_step(4, 300))).predicted.computes
    columns = (
        lanes.kind,
        lanes.stage,
        lanes.microbatch,
        lanes.start,
        lanes.end,
        lanes.critical,
    )
    # One byte of kind, stage and path, two of a microbatch, four of each time; base64 adds a third.
    size = sum(len(packed.data) for packed in columns) / lanes.first[-1]
    assert size == pytest.approx(13 * 4 / 3, abs=0.1)
