"""Old keys of a job file are accepted for one version, with a warning that names the new ones."""

import warnings
from pathlib import Path
from typing import ClassVar

import pytest

from pipecut.compiler.inputs.document.read import read_document
from pipecut.compiler.inputs.document.renamed import RenamedKeyWarning
from pipecut.compiler.inputs.document.schema import FileSchema, Renamed
from pipecut.compiler.inputs.job import JobSpec, location_in_job, read_job
from pipecut.compiler.search.sizes import SizeOverrides, resolve_sizes
from pipecut.errors import UserFileError

JOB = """model: {factory: "tests.models.core:mlp"}
inputs: "tests.models.core:vectors"
batch: {global: 8, microbatch: 2}
"""


def job_file(folder: Path, extra: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(JOB + extra)
    return path


@pytest.mark.parametrize(
    ("old", "key", "value", "example"),
    [
        ("chunks: 4", "stages_per_rank", 4, "stages_per_rank: 4"),
        ("optimizer_state: fully_shard", "shard_optimizer", True, "shard_optimizer: true"),
        ("optimizer_state: replicate", "shard_optimizer", False, "shard_optimizer: false"),
    ],
)
def test_an_old_key_is_read_under_its_new_name_with_a_warning(
    old: str, key: str, value: object, example: str, tmp_path: Path
) -> None:
    path = job_file(tmp_path, f"schedule: interleaved\n{old}\n")
    message = rf"job.yaml:5:1: key '{old.split(':')[0]}' is called '{key}' now.*write {example}"
    with pytest.warns(RenamedKeyWarning, match=message):
        spec = read_job(path).spec
    assert getattr(spec, key) == value
    assert key in spec.model_fields_set


def test_the_new_keys_are_read_without_a_warning(tmp_path: Path) -> None:
    path = job_file(tmp_path, "shard_optimizer: true\nschedule: interleaved\nstages_per_rank: 3\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spec = read_job(path).spec
    assert (spec.shard_optimizer, spec.stages_per_rank) == (True, 3)


def test_an_old_key_beside_the_new_one_is_refused(tmp_path: Path) -> None:
    path = job_file(tmp_path, "stages_per_rank: 2\nchunks: 2\n")
    with pytest.raises(UserFileError, match=r"job.yaml:5:1: key 'chunks' .* remove 'chunks'"):
        read_job(path)


@pytest.mark.filterwarnings("ignore::pipecut.compiler.inputs.document.renamed.RenamedKeyWarning")
@pytest.mark.parametrize(
    ("old", "message"),
    [
        ("chunks: many", r"job.yaml:4:9: stages_per_rank: Input should be a valid integer"),
        ("optimizer_state: half", r"job.yaml:4:18: shard_optimizer: Input should be a valid bool"),
    ],
)
def test_a_wrong_value_of_an_old_key_is_reported_where_it_is(
    old: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserFileError, match=message):
        read_job(job_file(tmp_path, f"{old}\n"))


def test_every_new_name_is_a_key_and_no_old_one_is() -> None:
    assert {renamed.key for renamed in JobSpec.RENAMED.values()} <= set(JobSpec.model_fields)
    assert not set(JobSpec.RENAMED) & set(JobSpec.model_fields)


class Inner(FileSchema):
    RENAMED: ClassVar = {"old": Renamed("new")}

    new: int


class Outer(FileSchema):
    inner: Inner


def test_keys_of_an_inner_schema_may_be_renamed_too(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("inner:\n  old: 3\n")
    with pytest.warns(RenamedKeyWarning, match=r"file.yaml:2:3: key 'old' is called 'new' now"):
        assert read_document(path, Outer).inner.new == 3


@pytest.mark.filterwarnings("ignore::pipecut.compiler.inputs.document.renamed.RenamedKeyWarning")
def test_a_refusal_points_to_the_key_as_the_file_has_it(tmp_path: Path) -> None:
    path = job_file(tmp_path, "schedule: 1f1b\nchunks: 4\n")
    with pytest.raises(UserFileError, match="job.yaml:5:1: stages_per_rank is for schedule"):
        resolve_sizes(read_job(path).spec, path, 4, SizeOverrides())
    assert location_in_job(path, "schedule") == f"{path}:4:1"
    assert location_in_job(path, "seed") == f"{path}:1:1"
