"""A checkpoint has its name only once it is whole."""

import json
import resource
import threading
from pathlib import Path

import pytest
import torch

from pipecut.errors import CheckpointError
from pipecut.runtime.checkpoint import writing
from pipecut.runtime.checkpoint.folder import latest
from pipecut.runtime.checkpoint.manifest import Piece, read_manifest
from pipecut.runtime.checkpoint.rank_tensors import RankTensors
from pipecut.runtime.checkpoint.reading import read_tensors
from tests.checkpoints import about, made_checkpoint

TENSORS = RankTensors(
    {"parameter/w": torch.ones(3, 2), "buffer/b": torch.zeros(1)}, {"parameter/w": (0, 3)}
)


def test_a_part_says_what_its_file_has(tmp_path: Path) -> None:
    partial = writing.begin(tmp_path, 4)
    writing.write_part(partial, 2, TENSORS)
    part = json.loads((partial / "rank_2.json").read_text())
    assert part["file"] == "rank_2.safetensors" and part["tensors"] == ["buffer/b"]
    assert part["pieces"] == {"parameter/w": [0, 3]}
    assert latest(tmp_path) is None


def test_parts_of_all_ranks_become_one_manifest(tmp_path: Path) -> None:
    partial = writing.begin(tmp_path, 4)
    other = RankTensors({"parameter/w": torch.ones(2, 2)}, {"parameter/w": (3, 5)})
    for rank, tensors in ((1, other), (0, TENSORS)):
        writing.write_part(partial, rank, tensors)
    path = writing.finish(partial, tmp_path, [0, 1], about(4))
    manifest = read_manifest(path)
    assert manifest.pieces["parameter/w"] == [
        Piece(0, 3, "rank_0.safetensors"),
        Piece(3, 5, "rank_1.safetensors"),
    ]
    assert manifest.tensors == {"buffer/b": "rank_0.safetensors"}
    assert sorted(file.name for file in path.iterdir()) == [
        "checkpoint.json",
        "rank_0.safetensors",
        "rank_1.safetensors",
    ]


def test_the_same_rows_of_two_ranks_are_one_piece(tmp_path: Path) -> None:
    partial = writing.begin(tmp_path, 4)
    for rank in (0, 1):
        writing.write_part(partial, rank, TENSORS)
    manifest = read_manifest(writing.finish(partial, tmp_path, [0, 1], about(4)))
    assert len(manifest.pieces["parameter/w"]) == 1


def test_a_part_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    partial = writing.begin(tmp_path, 4)
    threading.Timer(0.05, writing.write_part, (partial, 0, TENSORS)).start()
    assert writing.finish(partial, tmp_path, [0], about(4)).is_dir()


def test_a_part_that_never_comes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PATIENCE", 0.0)
    partial = writing.begin(tmp_path, 4)
    with pytest.raises(
        CheckpointError, match="nothing came .* of what rank_0, rank_1 should write"
    ):
        writing.finish(partial, tmp_path, [0, 1], about(4))
    assert latest(tmp_path) is None


def test_a_step_that_is_saved_again_replaces_the_first(tmp_path: Path) -> None:
    made_checkpoint(tmp_path, 4, save="first")
    path = made_checkpoint(tmp_path, 4, save="second")
    assert read_manifest(path).save == "second"
    assert [file.name for file in tmp_path.iterdir()] == ["step_00000004"]
    assert read_tensors(path, read_manifest(path), ["parameter/w"])["parameter/w"][0] == 4.0


def test_what_a_crash_left_in_the_way_is_removed(tmp_path: Path) -> None:
    (writing.begin(tmp_path, 4) / "rank_0.json").write_text("{}")
    assert list(writing.begin(tmp_path, 4).iterdir()) == []


def test_a_file_that_cannot_be_written_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    partial = writing.begin(tmp_path, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(
            CheckpointError, match="could not be written: .*an earlier checkpoint stays as it was"
        ):
            writing.write_part(partial, 0, RankTensors({"parameter/w": torch.zeros(10_000)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert latest(tmp_path) is None


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="file.*could not be written"):
        writing.begin(tmp_path / "file", 1)
