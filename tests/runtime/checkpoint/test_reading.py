"""Tensors are read from the files that have them, or only the rows that are wanted."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecut.errors import CheckpointError
from pipecut.runtime.checkpoint import writing
from pipecut.runtime.checkpoint.manifest import Manifest, read_manifest
from pipecut.runtime.checkpoint.rank_tensors import RankTensors
from pipecut.runtime.checkpoint.reading import WantedRows, read_tensors
from tests.checkpoints import about

VALUES = torch.arange(20.0).view(10, 2)


def saved(folder: Path, cuts: tuple[int, ...] = (0, 3, 7, 10)) -> tuple[Path, Manifest]:
    """A checkpoint whose ranks have the rows between these, and the first a bias and a count."""
    partial = writing.begin(folder, 1)
    for rank, (begin, end) in enumerate(zip(cuts, cuts[1:], strict=False)):
        tensors = {"parameter/w": VALUES[begin:end]}
        tensors |= {"parameter/b": torch.ones(4), "count": torch.tensor(3)} if not rank else {}
        writing.write_part(partial, rank, RankTensors(tensors, {"parameter/w": (begin, end)}))
    path = writing.finish(partial, folder, range(len(cuts) - 1), about(1))
    return path, read_manifest(path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, Manifest]:
    return saved(tmp_path)


@given(start=st.integers(0, 9), data=st.data())
@settings(max_examples=20)
def test_any_rows_are_read_from_the_pieces_that_have_them(
    start: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stop = data.draw(st.integers(start + 1, 10))
    inner = data.draw(st.lists(st.integers(1, 9), max_size=3, unique=True))
    path, manifest = saved(tmp_path_factory.mktemp("rows"), (0, *sorted(inner), 10))
    rows = {"parameter/w": WantedRows(start, stop, 10)}
    assert torch.equal(
        read_tensors(path, manifest, ["parameter/w"], rows)["parameter/w"], VALUES[start:stop]
    )


def test_whole_tensors_are_joined(checkpoint: tuple[Path, Manifest]) -> None:
    path, manifest = checkpoint
    tensors = read_tensors(path, manifest, ["parameter/w", "parameter/b", "count"])
    assert torch.equal(tensors["parameter/w"], VALUES) and int(tensors["count"]) == 3


def test_rows_of_an_undivided_tensor_are_read(checkpoint: tuple[Path, Manifest]) -> None:
    path, manifest = checkpoint
    rows = {"parameter/b": WantedRows(1, 3, 4), "count": WantedRows(0, 5, 10)}
    tensors = read_tensors(path, manifest, list(rows), rows)
    assert tensors["parameter/b"].shape == (2,) and int(tensors["count"]) == 3


def test_files_that_are_not_needed_are_not_looked_at(checkpoint: tuple[Path, Manifest]) -> None:
    path, manifest = checkpoint
    (path / "rank_2.safetensors").unlink()
    read_tensors(path, manifest, ["parameter/w"], {"parameter/w": WantedRows(0, 7, 10)})
    with pytest.raises(CheckpointError, match=r"rank_2.safetensors is missing; remove"):
        read_tensors(path, manifest, ["parameter/w"])


def test_another_number_of_rows_is_refused(checkpoint: tuple[Path, Manifest]) -> None:
    path, manifest = checkpoint
    for name, total in (("w", 10), ("b", 4)):
        rows = {f"parameter/{name}": WantedRows(0, 2, total + 2)}
        with pytest.raises(
            CheckpointError,
            match=f"parameter {name} has {total + 2} rows, in the checkpoint {total}",
        ):
            read_tensors(path, manifest, list(rows), rows)


def test_a_missing_tensor_is_named(checkpoint: tuple[Path, Manifest]) -> None:
    with pytest.raises(CheckpointError, match="has no parameter v; it is of models:build, or of"):
        read_tensors(*checkpoint, ["parameter/v"])


def test_missing_rows_are_found(checkpoint: tuple[Path, Manifest]) -> None:
    path, manifest = checkpoint
    pieces = {"parameter/w": [manifest.pieces["parameter/w"][0], manifest.pieces["parameter/w"][2]]}
    with pytest.raises(CheckpointError, match="lacks rows of parameter w"):
        read_tensors(path, replace(manifest, pieces=pieces), ["parameter/w"])


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_file_that_is_not_as_it_was_written_is_refused(
    damage: str, checkpoint: tuple[Path, Manifest]
) -> None:
    path, manifest = checkpoint
    file = path / "rank_0.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content if damage == "flip" else content[:-1]))
    with pytest.raises(CheckpointError, match="rank_0.safetensors is not as it was written"):
        read_tensors(path, manifest, ["parameter/b"])


def test_a_file_without_the_tensor_is_damaged(checkpoint: tuple[Path, Manifest]) -> None:
    path, manifest = checkpoint
    wrong = replace(manifest, tensors={"parameter/b": "rank_2.safetensors"})
    with pytest.raises(CheckpointError, match="rank_2.safetensors cannot be read"):
        read_tensors(path, wrong, ["parameter/b"])
