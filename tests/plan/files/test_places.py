"""A plan names its model's places from its own folder, and finds them again where it was moved."""

from pathlib import Path

import pytest

from pipecut.errors import UserFileError
from pipecut.model.functions import function_of_plan
from pipecut.plan.folder import MANIFEST, read_plan, write_plan
from pipecut.plan.places import as_written, code_folder, located
from pipecut.plan.schema import Plan, Source
from tests.plans import made_plan, write_made_plan

HOME = Path("/home/me/project")


def plan(weights: str | None = None, cluster: str = "hgx-h100", *folders: str) -> Plan:
    """A plan of a job in `jobs`, compiled in the project's folder."""
    model = made_plan(1).model.model_copy(
        update={"folders": list(folders) or [str(HOME), f"{HOME}/jobs"], "weights": weights}
    )
    source = Source(job=f"{HOME}/jobs/job.yaml", cluster=cluster, available=1, devices=[0])
    return made_plan(1, model=model, source=source)


def test_places_are_written_from_the_plans_folder() -> None:
    written = as_written(plan(f"{HOME}/jobs/w.safetensors", f"{HOME}/plan/c.yaml"), HOME / "plan")
    assert written.model.folders == ["..", "../jobs"]
    assert written.model.weights == "../jobs/w.safetensors"
    assert written.source is not None and written.source.job == "../jobs/job.yaml"
    # Marked as a file, where a name of specs may stand too.
    assert written.source.cluster == "./c.yaml"
    assert as_written(plan(), HOME / "plan").source == written.source.model_copy(
        update={"cluster": "hgx-h100"}
    )


@pytest.mark.parametrize("cluster", ["hgx-h100", "auto", f"{HOME}/plan/c.yaml"])
def test_what_was_written_is_found_again(cluster: str) -> None:
    made = plan("/data/weights", cluster)
    assert located(as_written(made, HOME / "plan"), HOME / "plan") == made


def test_moved_together_all_is_found_at_the_new_place() -> None:
    written = as_written(plan(f"{HOME}/w.safetensors", f"{HOME}/c.yaml"), HOME / "plan")
    moved = located(written, Path("/mnt/other/plan"))
    assert moved.model.folders == ["/mnt/other", "/mnt/other/jobs"]
    assert moved.model.weights == "/mnt/other/w.safetensors"
    assert moved.source is not None and moved.source.cluster == "/mnt/other/c.yaml"


def test_code_elsewhere_is_given_by_its_folder() -> None:
    written = as_written(plan(f"{HOME}/w.safetensors"), HOME / "plan")
    moved = located(written, Path("/mnt/plans/plan"), Path("/opt/code"))
    assert moved.model.folders == ["/opt/code", "/opt/code/jobs"]
    assert moved.model.weights == "/opt/code/w.safetensors"
    assert moved.source is not None and moved.source.job == "/opt/code/jobs/job.yaml"


def test_what_was_outside_the_code_stays_where_it_is() -> None:
    written = as_written(plan("/data/weights", "auto", "/tmp", f"{HOME}/jobs"), HOME / "plan")
    moved = located(written, HOME / "plan", Path("/opt/code"))
    assert moved.model.folders == ["/opt/code", "/tmp"]
    assert moved.model.weights == "/data/weights"


def test_the_codes_folder_is_around_the_others_or_the_jobs() -> None:
    assert code_folder([HOME, HOME / "jobs"]) == HOME == code_folder([HOME / "jobs", HOME])
    assert code_folder([Path("/tmp"), HOME]) == HOME
    assert code_folder([]) is None


def test_a_plan_is_written_as_it_was_read(tmp_path: Path) -> None:
    weights = str(tmp_path / "w.safetensors")
    model = made_plan(1).model.model_copy(update={"folders": [str(tmp_path)], "weights": weights})
    (tmp_path / "plan").mkdir()
    folder = write_made_plan(tmp_path / "plan", model=model)
    assert str(tmp_path) not in (folder / MANIFEST).read_text()
    read = read_plan(folder).plan
    assert read.model == model and write_plan(folder, read) == read.seal
    (tmp_path / "plan").rename(tmp_path / "renamed")
    assert read_plan(tmp_path / "renamed").plan.model == model


def test_missing_code_is_named_with_the_remedy(tmp_path: Path) -> None:
    model = made_plan(1).model.model_copy(
        update={"factory": "nowhere_at_all.models:build", "folders": [str(tmp_path)]}
    )
    message = f"code of 'nowhere_at_all.models:build' is not here: .*{tmp_path}.*give --code"
    with pytest.raises(UserFileError, match=message):
        function_of_plan(model.factory, model)
