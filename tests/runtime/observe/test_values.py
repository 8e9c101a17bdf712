"""Reports, traces and records from values."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipecut.plan.actions import Action, Compute, Message, Reduce, Send
from pipecut.plan.replay.simulate import predicted
from pipecut.runtime.engine.gather_outputs import gather_outputs, samples_per_replica
from pipecut.runtime.engine.recorder import FIRST, LAST, Measured, Record, Recorder
from pipecut.runtime.observe import report as reports
from pipecut.runtime.observe.chrome_trace import MEASURED, PREDICTED, trace_events
from pipecut.runtime.observe.report import Report, Row, lines, report_of, write_report
from tests.golden import check_golden
from tests.graphs import made_folder
from tests.plans import made_plan


def record(action: Action, start: float, end: float, waited: bool = False) -> Record:
    return Record(action, waited, start, end)


# Two microbatches of the last stage: it waits for each, and computes twice as long as planned.
STEP = [
    record(Compute("F", 1, 0), 0.0, 1.0, waited=True),
    record(Compute("F", 1, 0), 1.0, 3.0),
    record(Compute("B", 1, 0), 3.0, 7.0),
    record(Send(Message("B", 0, 0)), 7.0, 7.5),
    record(Compute("F", 1, 1), 8.0, 8.5, waited=True),
    record(Compute("F", 1, 1), 8.5, 10.5),
    record(Compute("B", 1, 1), 10.5, 14.5),
    record(Reduce(), 14.5, 15.0),
]


def test_a_report_has_medians_per_microbatch_beside_what_the_plan_says() -> None:
    shorter = [replace(r, end=r.start) for r in STEP]
    report = report_of(made_folder(), {1: [shorter, STEP, STEP]}, 15.0, {1: 2**20})
    assert report.measured == (Row(1, 1, 2.0, 4.0, 1.5, 0.5, 2**20),)
    (expected,) = report.predicted
    assert (expected.forward, expected.backward, expected.memory) == (1.0, 2.0, 232)
    # It computes from 1 s to 7 s, all but one second before.
    assert expected.wait == pytest.approx(1.0)
    assert (report.predicted_step, report.measured_step) == (pytest.approx(9.0), 15.0)


def test_operators_take_what_their_stage_took() -> None:
    report = report_of(made_folder(), {1: [STEP]}, 15.0, {})
    assert report.operators["slow-core"]["hidden_1"] == (2.0, 4.0)
    # Nothing was recorded of the first stage.
    assert report.operators["slow-core"]["hidden_0"] == (0.0, 0.0)


def made_report(predicted_step: float, forward: float, measured_step: float = 10.0) -> Report:
    row = Row(0, 0, 1.0, 2.0, 0.5, 0.25, 3 * 2**20)
    measured = Row(0, 0, forward, 2.0, 0.5, 0.25, 0)
    return Report(predicted_step, measured_step, (row,), (measured,), 2, {})


def test_a_report_prints_predicted_and_measured_side_by_side() -> None:
    check_golden("report", "\n".join(lines(made_report(8.0, 2.0), costs_measured=False)))


@pytest.mark.parametrize(
    ("report", "measured", "cause"),
    [
        (made_report(9.9, 1.0), False, "the prediction holds"),
        (made_report(5.0, 1.0), False, "most of it is waiting.*run pipecut calibrate"),
        (made_report(5.0, 4.0), False, "most of it is compute.*run pipecut profile"),
        (made_report(5.0, 4.0), True, "most of it is compute.*--costs measured:FILE"),
    ],
)
def test_the_cause_of_an_error_is_named_with_what_to_do(
    report: Report, measured: bool, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports.os, "cpu_count", lambda: 8)
    assert re.match(cause, lines(report, measured)[-1])


def test_a_report_is_written_as_json(tmp_path: Path) -> None:
    write_report(tmp_path / "report.json", made_report(8.0, 2.0))
    read = json.loads((tmp_path / "report.json").read_text())
    assert read["predicted_step"] == 8.0 and read["measured"][0]["forward"] == 2.0


def test_a_trace_has_a_predicted_and_a_measured_lane_and_the_memory() -> None:
    folder = made_folder()
    events = trace_events(folder, predicted(folder), {1: STEP})
    spans = [event for event in events if event["ph"] == "X"]
    planned = [e["name"] for e in spans if (e["pid"], e["tid"]) == (0, PREDICTED)]
    assert planned == ["F 0.0", "F 0.1", "B 0.0", "B 0.1"]
    measured = {e["name"]: e for e in spans if (e["pid"], e["tid"]) == (1, MEASURED)}
    assert list(measured) == ["WAIT 1.0", "F 1.0", "B 1.0", "SEND 1.0"] + [
        *("WAIT 1.1", "F 1.1", "B 1.1", "REDUCE")
    ]
    assert (measured["B 1.0"]["ts"], measured["B 1.0"]["dur"]) == (3e6, 4e6)
    assert measured["B 1.0"]["args"] == {"stage": 1, "microbatch": 0, "modules": "layers.1"}
    assert {event["pid"] for event in events if event["ph"] == "C"} == {0, 1}


def test_a_trace_shows_every_replica() -> None:
    folder = made_folder()
    twice = folder.plan.model_copy(update={"replicas": 2})
    events = trace_events(replace(folder, plan=twice), predicted(folder), {})
    assert {event["pid"] for event in events if event["ph"] == "X"} == {0, 1, 2, 3}


def test_a_recorder_gives_what_happened_since_it_was_last_asked() -> None:
    recorder = Recorder(torch.device("cpu"))
    begin = recorder.now()
    recorder.add(Reduce(), False, begin, recorder.now())
    (taken,) = recorder.take()
    assert taken.action == Reduce() and taken.end >= taken.start and recorder.take() == []


def test_only_the_first_and_the_last_steps_are_kept() -> None:
    measured = Measured()
    for step in range(FIRST + LAST + 20):
        measured.add([record(Compute("F", 0, step), 0.0, 1.0)])
    kept = [records[0].action.microbatch for records in measured.steps]  # type: ignore[union-attr]
    assert kept == [*range(FIRST), *range(FIRST + 20, FIRST + LAST + 20)]


@pytest.mark.parametrize(
    ("samples", "replicas", "counts"),
    [
        (8, 1, [8]),
        (8, 2, [4, 4]),
        (7, 2, [4, 3]),
        (5, 2, [4, 1]),
        (2, 2, [2, 0]),
        (9, 3, [4, 4, 1]),
    ],
)
def test_replicas_have_whole_microbatches_of_a_batch(
    samples: int, replicas: int, counts: list[int]
) -> None:
    plan = made_plan(1, replicas=replicas)
    assert samples_per_replica(plan, samples) == counts


def test_one_rank_has_all_outputs_already() -> None:
    class Alone:
        size = 1

    outputs = {"logits": torch.ones(2)}
    assert gather_outputs(made_plan(1), Alone(), outputs, 2) is outputs  # type: ignore[arg-type]
