"""What is no number is not saved as if it were one."""

from pathlib import Path

import pytest

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.errors import RankLostError
from pipecut.runtime.launch.launch import launch

JOB = """
model: {factory: "tests.models.diverge:root"}
inputs: "tests.models.diverge:rows"
batch: {global: 8, microbatch: 4}
"""


def test_gradients_of_the_last_step_that_are_no_numbers_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    plan = tmp_path / "plan"
    compile(tmp_path / "job.yaml", "auto", plan, Options(SizeOverrides(stages=1), costs="roofline"))
    arguments = [
        str(plan),
        "--steps",
        "3",
        "--data",
        "tests.models.diverge:zeros_at_the_end",
        "--save",
        str(tmp_path / "w"),
    ]
    with pytest.raises(RankLostError):
        launch(1, "pipecut.runtime", arguments)
    assert not (tmp_path / "w").exists() or not list((tmp_path / "w").glob("*.safetensors"))
