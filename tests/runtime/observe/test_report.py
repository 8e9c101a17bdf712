"""A run that records writes what it did beside what was predicted, and a compile uses it."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.errors import UserFileError
from pipecut.plan.replay.simulate import predicted
from pipecut.runtime.launch.launch import launch
from pipecut.runtime.observe.picture import draw


@pytest.fixture
def ran(write_job: Any, slow_cores: str, tmp_path: Path) -> Path:
    """A plan of two stages, run for three steps with a trace and a report."""
    compile(
        write_job("mlp", "vectors"), slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=2))
    )
    files = ["--trace", str(tmp_path / "trace.json"), "--report", str(tmp_path / "report.json")]
    launch(
        2, "pipecut.runtime", [str(tmp_path / "plan"), "--steps", "3", "--device", "cpu", *files]
    )
    return tmp_path


def test_trace_and_report_have_every_action_of_every_rank(
    ran: Path, write_job: Any, slow_cores: str
) -> None:
    events = [
        e for e in json.loads((ran / "trace.json").read_text())["traceEvents"] if e["ph"] == "X"
    ]
    for rank in (0, 1):
        for lane in (0, 1):
            names = [
                e["name"]
                for e in events
                if (e["pid"], e["tid"]) == (rank, lane) and e["cat"] in ("F", "B")
            ]
            assert sorted(names) == sorted(
                f"{kind} {rank}.{m}" for kind in "FB" for m in range(4)
            ), (rank, lane)
    assert all(e["dur"] >= 0 and e["args"]["modules"] for e in events)
    report = json.loads((ran / "report.json").read_text())
    assert [row["stage"] for row in report["measured"]] == [0, 1] and report["measured_step"] > 0
    plan = compile(
        write_job("mlp", "vectors"),
        slow_cores,
        ran / "again",
        Options(SizeOverrides(stages=2), costs=f"measured:{ran / 'report.json'}"),
    ).plan
    assert any("measured on slow-core" in note for note in plan.notes)
    # What the stages took together is what the operators now cost.
    taken = sum(row["forward"] + row["backward"] for row in report["measured"])
    assert sum(s.forward_seconds + s.backward_seconds for s in plan.stages) == pytest.approx(
        taken, rel=1e-6
    )
    with pytest.raises(UserFileError, match="is no report"):
        compile(
            write_job("mlp", "vectors"),
            slow_cores,
            ran / "again",
            Options(costs=f"measured:{ran / 'trace.json'}"),
        )


def test_a_picture_is_drawn_or_what_it_needs_is_said(
    write_job: Any, slow_cores: str, tmp_path: Path
) -> None:
    folder = compile(
        write_job("mlp", "vectors"), slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=2))
    )
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        with pytest.raises(UserFileError, match="pip install"):
            draw(tmp_path / "step.png", folder, predicted(folder))
        return
    draw(tmp_path / "step.png", folder, predicted(folder))
    assert (tmp_path / "step.png").read_bytes().startswith(b"\x89PNG")
