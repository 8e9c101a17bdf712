"""What compile promises beyond numbers: what does not fit, standalone stages, edited plans."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipecut.cli import app
from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.errors import InfeasibleError, PlanError
from pipecut.plan.folder import read_plan

SMALL = """name: tiny
nodes:
  - {{count: 1, devices: {{small: 4}}, link: nvlink4}}
devices:
  small:
    memory: {memory}
    bandwidth: 1GB/s
    flops: {{fp32: 1TFLOP/s}}
    type: cpu
    source: made up
"""


def test_infeasible_names_stage_limit_and_remedy(write_job: Any, tmp_path: Path) -> None:
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(SMALL.format(memory="40KB"))
    with pytest.raises(
        InfeasibleError, match=r"memory binds on stage \d.*What would fit: .* per device.*stages"
    ) as caught:
        compile(
            write_job("mlp", "vectors"),
            str(cluster),
            tmp_path / "plan",
            Options(SizeOverrides(stages=2)),
        )
    assert caught.value.exit_code == 3
    assert not (tmp_path / "plan").exists()


def test_memory_limits_move_the_cut(write_job: Any, tmp_path: Path) -> None:
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(SMALL.format(memory="1GB"))
    plan = compile(
        write_job("mlp", "vectors"),
        str(cluster),
        tmp_path / "plan",
        Options(SizeOverrides(stages=2)),
    ).plan
    assert all(stage.memory_bytes <= stage.capacity_bytes for stage in plan.stages)
    assert plan.certificate.proven


def test_stage_modules_stand_alone_and_keep_the_names(write_job: Any, tmp_path: Path) -> None:
    compile(
        write_job("mlp", "vectors"), "auto", tmp_path / "plan", Options(SizeOverrides(stages=3))
    )
    names: set[str] = set()
    for index in range(3):
        source = (tmp_path / "plan" / "stages" / f"stage_{index}.py").read_text()
        assert "pipecut" not in source
        code = f"import stage_{index} as m; print('\\n'.join(m.Stage{index}().state_dict()))"
        run = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path / "plan" / "stages",
            capture_output=True,
            text=True,
            check=True,
        )
        names |= set(run.stdout.split())
    from tests.models.core import mlp

    assert names == set(mlp().state_dict())


def test_an_edited_plan_is_sealed_once_it_is_proven(write_job: Any, tmp_path: Path) -> None:
    compile(
        write_job("mlp", "vectors"), "auto", tmp_path / "plan", Options(SizeOverrides(stages=2))
    )
    stage, schedule = (
        tmp_path / "plan" / "stages" / "stage_0.py",
        tmp_path / "plan" / "schedule.yaml",
    )
    stage.write_text(stage.read_text() + "\n# mine\n")
    assert CliRunner().invoke(app, ["seal", str(tmp_path / "plan")]).exit_code == 0
    assert read_plan(tmp_path / "plan").plan.hashes["stages/stage_0.py"]
    schedule.write_text(schedule.read_text().replace("B 0.3", "B 0.2"))
    with pytest.raises(PlanError, match="does not run once"):
        CliRunner().invoke(app, ["seal", str(tmp_path / "plan")], catch_exceptions=False)
    with pytest.raises(PlanError, match="pipecut seal"):
        read_plan(tmp_path / "plan")
