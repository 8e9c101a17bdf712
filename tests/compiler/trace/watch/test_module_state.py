"""What forward leaves behind in its modules is carried on, or refused by name."""

from pathlib import Path

import pytest

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.trace.trace import trace
from pipecut.errors import TraceError
from pipecut.runtime.verify.verify import verify

JOB = """
model: {{factory: "tests.models.modes:remembering", args: {{how: {how}}}}}
inputs: "tests.models.modes:rows"
batch: {{global: 8, microbatch: 2}}
"""


def job(tmp_path: Path, how: str) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(JOB.format(how=how))
    return path


@pytest.mark.parametrize("how", ["assigned", pytest.param("swapped", marks=pytest.mark.slow)])
def test_a_buffer_that_is_assigned_is_written(how: str, slow_cores: str, tmp_path: Path) -> None:
    plan = compile(
        job(tmp_path, how), slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=3))
    ).plan
    written = [held.names[0] for stage in plan.stages for held in stage.buffers if held.written]
    assert written == ["between.1.mean", "between.1.other"][: 1 + (how == "swapped")]
    result = verify(tmp_path / "plan", steps=2, evaluation=True)
    assert result.passed, result.worst


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            "counted",
            r"'between.1.calls' changes from one forward to the next \(.*modes.py:\d+ reads it\)"
            r".*as a buffer",
        ),
        ("logged", "'between.1.log' changes"),
        ("recurrent", "'between.1.cached' changes"),
        (
            "reshaped",
            r"assigns torch.float32 \[.*\] to its buffer 'between.1.mean', "
            r"which is torch.float32 \[16\]",
        ),
    ],
)
def test_what_a_plan_cannot_carry_on_is_refused_by_name(
    how: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(TraceError, match=message):
        trace(read_job(job(tmp_path, how)))


@pytest.mark.parametrize("how", ["mask", "none"])
def test_what_is_filled_once_or_written_first_may_stay(how: str, tmp_path: Path) -> None:
    assert trace(read_job(job(tmp_path, how))).operators
