"""What a job file says about where modules go is obeyed, or refused with its line."""

from pathlib import Path
from typing import Any

import pytest

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.errors import InfeasibleError, UserFileError
from pipecut.plan.schema import Plan


def stages_of(plan: Plan, name: str) -> set[int]:
    return {stage.index for stage in plan.stages for held in stage.parameters if name in held.names}


@pytest.fixture
def place(write_job: Any, slow_cores: str, tmp_path: Path) -> Any:
    def compiled(placement: str, stages: int = 3) -> Plan:
        job = write_job("mlp", "vectors", extra=f"placement: {placement}\n")
        return compile(
            job, slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=stages))
        ).plan

    return compiled


def test_a_module_is_put_on_its_stage(place: Any) -> None:
    plan = place('{on_stage: {"layers.2": 2, "layers.1": 1}}')
    assert stages_of(plan, "layers.2.0.weight") == {2} and stages_of(plan, "layers.1.0.weight") == {
        1
    }
    assert plan.certificate.proven


def test_modules_are_kept_together(place: Any) -> None:
    plan = place('{together: [["layers.1", "layers.2", "layers.3", "layers.4"]]}')
    assert len(set.union(*(stages_of(plan, f"layers.{i}.0.weight") for i in (1, 2, 3, 4)))) == 1


def test_a_cut_lies_where_it_is_asked_for(place: Any) -> None:
    plan = place('{cut_before: ["layers.1", "layers.5"]}')
    assert [stages_of(plan, f"layers.{i}.0.weight") for i in range(6)] == [
        {0},
        {1},
        {1},
        {1},
        {1},
        {2},
    ]


def test_no_cut_lies_within_a_module_that_is_never_cut(place: Any) -> None:
    plan = place('{never_cut: ["layers.*"]}', stages=6)
    assert [stage.modules for stage in plan.stages] == [[f"layers.{i}"] for i in range(6)]


def test_a_placement_that_makes_no_sense_is_refused_with_its_line(place: Any) -> None:
    with pytest.raises(UserFileError, match=r"mlp.yaml:5:\d+: placement: 'layer.2' matches no"):
        place('{on_stage: {"layer.2": 1}}')


def test_a_placement_nothing_can_obey_is_refused(place: Any) -> None:
    with pytest.raises(InfeasibleError, match="no placement obeys the job's placement"):
        place('{on_stage: {"layers.0": 2, "layers.5": 0}}')


def test_a_cut_on_a_single_stage_is_refused_with_its_line(place: Any) -> None:
    with pytest.raises(
        UserFileError,
        match=r"mlp.yaml:5:\d+: placement: 'layers.1' asks for a cut, but there is only one stage",
    ):
        place('{cut_before: ["layers.1"]}', stages=1)
