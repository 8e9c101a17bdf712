"""plan.yaml is written from a Plan once, and read back as the same Plan or refused with a remedy."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipecut.errors import PlanError
from pipecut.plan.folder import MANIFEST, read_plan, write_plan
from tests.plans import made_plan


def written(folder: Path) -> dict[str, Any]:
    """What plan.yaml says."""
    return dict(yaml.safe_load((folder / MANIFEST).read_text()))


def test_plan_yaml_has_what_was_set_and_its_seal(tmp_path: Path) -> None:
    plan = made_plan(2)
    seal = write_plan(tmp_path, plan)
    data = written(tmp_path)
    assert data.pop("seal") == seal
    assert data == plan.model_dump(exclude_unset=True)
    # Nobody set these, and a default says nothing.
    assert "evaluation" not in data and "order" not in data["inputs"][0]


def test_the_seal_changes_with_any_value(tmp_path: Path) -> None:
    plan = made_plan(2)
    faster = plan.model_copy(
        update={"prediction": plan.prediction.model_copy(update={"step_seconds": 1.0})}
    )
    assert write_plan(tmp_path, plan) != write_plan(tmp_path, faster)
    assert write_plan(tmp_path, plan) == write_plan(tmp_path, plan)


@pytest.mark.parametrize("version", [5, 99])
def test_a_plan_of_another_version_is_refused_with_the_remedy(tmp_path: Path, version: int) -> None:
    write_plan(tmp_path, made_plan(1, version=version))
    message = f"plan version {version}, this pipecut reads version 6; compile again"
    with pytest.raises(PlanError, match=message):
        read_plan(tmp_path)
