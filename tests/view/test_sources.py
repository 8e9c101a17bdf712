"""What stands beside a plan on its page is of that plan, or refused."""

from pathlib import Path

import pytest

from pipecut.errors import UserFileError
from pipecut.view.sources import Span, read_report, read_spans
from tests.view.made import made_event, made_row, made_sources, write_report, write_trace

PLAN = made_sources().plan


def test_a_report_is_read(tmp_path: Path) -> None:
    report = read_report(write_report(tmp_path / "report.json"), PLAN)
    assert report.measured_step == 16.5
    assert [(row.rank, row.stage, row.memory) for row in report.measured] == [
        (0, 0, 2**20),
        (1, 1, 2**20),
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"measured": [made_row(0, 0)]}, "is of another plan: its stages and ranks"),
        ({"predicted_step": 15.1}, "is of another plan: it says that a step of 15.1 s"),
        ({"measured_step": float("nan")}, "is no report of a run: measured_step"),
        ({"measured": "rows"}, "is no report of a run: measured"),
    ],
)
def test_another_report_is_refused(fields: dict[str, object], message: str, tmp_path: Path) -> None:
    path = write_report(tmp_path / "report.json", **fields)
    with pytest.raises(UserFileError, match=f"{path}: {message}"):
        read_report(path, PLAN)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserFileError, match=r"--run .*/r\.json cannot be read: No such .*run --report"
    ):
        read_report(tmp_path / "r.json", PLAN)
    with pytest.raises(
        UserFileError, match=r"--trace .*/t\.json cannot be read: No such .*run --trace"
    ):
        read_spans(tmp_path / "t.json", PLAN)


def test_measured_spans_of_a_trace_are_read_and_predicted_ones_left_out(tmp_path: Path) -> None:
    events = (
        made_event(0, "F", 0, 0, tid=0),
        made_event(1, "B", 1, 0, tid=0, ts=14.5e6),
        made_event(0, "F", 0, 0),
        made_event(1, "REDUCE", 0, 0, args={}),
    )
    spans = read_spans(write_trace(tmp_path / "trace.json", *events), PLAN)
    assert spans == (
        Span(0, "F", 0, 0, 1.0, 1.5),
        Span(1, "REDUCE", None, None, 1.0, 1.5),
    )


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (made_event(5, "F", 0, 0), "is of another plan: rank 5 has F 0.0"),
        (made_event(0, "F", 1, 0), "is of another plan: rank 0 has F 1.0"),
        (made_event(0, "F", 0, 9), "is of another plan: rank 0 has F 0.9"),
        (made_event(0, "F", 0, 0, tid=0), "has nothing that was measured"),
        (made_event(0, "F", 0, 0), "is of another plan: it says that a step of 0 s was predicted"),
        (made_event(0, "F", 0, 0, dur="long"), "is no trace of a run"),
    ],
)
def test_another_trace_is_refused(event: dict[str, object], message: str, tmp_path: Path) -> None:
    path = write_trace(tmp_path / "trace.json", event)
    with pytest.raises(UserFileError, match=f"{path}: {message}"):
        read_spans(path, PLAN)
