"""A checkpoint's manifest is read as it was written, and machines' manifests become one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecut.errors import CheckpointError
from pipecut.plan.folder import seal_of
from pipecut.runtime.checkpoint.manifest import (
    MANIFEST,
    VERSION,
    Elsewhere,
    Group,
    Manifest,
    Piece,
    TrainingState,
    has_gaps,
    manifest_file,
    merge,
    read_manifest,
    spoken,
    write_manifest,
)

FULL = Manifest(
    VERSION,
    step=7,
    model={"factory": "models:build", "args": {"depth": 2}},
    files={"rank_0.safetensors": "00ff"},
    tensors={"parameter/a": "rank_0.safetensors"},
    groups=[Group({"lr": 0.1, "betas": [0.9, 0.99]}, ["a"])],
    training=TrainingState(
        ranks=2, steps=7, loss_scale={"scale": 2.0}, data={"at": 3}, recipe={"seed": 1}
    ),
    pieces={"parameter/w": [Piece(0, 3, "rank_0.safetensors")]},
    finite=False,
    save="abc",
    elsewhere={"parameter/w": Elsewhere([1], 5)},
)


def written(folder: Path, manifest: Manifest = FULL) -> Path:
    write_manifest(folder / MANIFEST, manifest)
    return folder


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    read = read_manifest(written(tmp_path))
    assert replace(read, seal=None) == FULL and read.seal
    assert read.names == {"parameter/a", "parameter/w"}
    assert read.pieces["parameter/w"][0].end == 3


def test_a_piece_is_a_list_of_three_in_the_file(tmp_path: Path) -> None:
    data = json.loads((written(tmp_path) / MANIFEST).read_text())
    assert data["pieces"] == {"parameter/w": [[0, 3, "rank_0.safetensors"]]}


def edited(folder: Path, sealed: bool = True, **changes: Any) -> None:
    data = {**json.loads((folder / MANIFEST).read_text()), **changes}
    data = {key: value for key, value in data.items() if value is not None}
    if sealed:
        data["seal"] = seal_of(data)
    (folder / MANIFEST).write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 9}, "checkpoint version 9, this pipecut reads 1, 2, 3"),
        ({"step": -1}, "cannot be read"),
        ({"step": True}, "cannot be read"),
        ({"surplus": 1}, "cannot be read"),
        ({"groups": None}, "cannot be read"),
        ({"pieces": {"parameter/w": [[0, 3]]}}, "cannot be read"),
        ({"pieces": {"parameter/w": [[0, -3, "rank_0.safetensors"]]}}, "cannot be read"),
        ({"tensors": {"parameter/a": "rank_9.safetensors"}}, "names a file that it has no hash of"),
        ({"files": {"../x": "0"}, "tensors": {"a": "../x"}}, "names a file that it has no hash of"),
    ],
)
def test_what_no_checkpoint_says_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    edited(written(tmp_path), **changes)
    with pytest.raises(CheckpointError, match=message):
        read_manifest(tmp_path)


def test_an_edit_without_a_seal_is_refused(tmp_path: Path) -> None:
    edited(written(tmp_path), sealed=False, step=8)
    with pytest.raises(CheckpointError, match="is not as it was written; remove .* to go on from"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(CheckpointError, match="checkpoint.json cannot be read"):
        read_manifest(tmp_path)


def test_earlier_versions_need_no_seal(tmp_path: Path) -> None:
    edited(written(tmp_path), sealed=False, version=2, seal=None, save=None, elsewhere=None)
    assert read_manifest(tmp_path).step == 7


def test_a_folder_without_a_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="checkpoint.json is missing"):
        read_manifest(tmp_path)


def test_a_folder_that_was_renamed_to_another_step_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "step_00000008"
    folder.mkdir()
    with pytest.raises(CheckpointError, match="is of step 7; name it as it was named"):
        read_manifest(written(folder))


def machines() -> tuple[Manifest, Manifest]:
    """Two machines with half of the rows each, and a tensor that only the second one has."""
    first = replace(FULL, elsewhere={"parameter/w": Elsewhere([1], 5), "buffer/b": Elsewhere([1])})
    second = replace(
        FULL,
        files={"rank_1.safetensors": "11"},
        tensors={"buffer/b": "rank_1.safetensors"},
        pieces={"parameter/w": [Piece(3, 5, "rank_1.safetensors")]},
        finite=True,
        elsewhere={"parameter/w": Elsewhere([0], 5), "parameter/a": Elsewhere([0])},
    )
    return first, second


def test_manifests_of_all_machines_are_one(tmp_path: Path) -> None:
    first, second = machines()
    write_manifest(manifest_file(tmp_path, 0), first)
    write_manifest(manifest_file(tmp_path, 1), second)
    assert sorted(file.name for file in tmp_path.iterdir()) == [MANIFEST, "checkpoint_1.json"]
    merged = read_manifest(tmp_path)
    assert merged.pieces["parameter/w"] == [
        Piece(0, 3, "rank_0.safetensors"),
        Piece(3, 5, "rank_1.safetensors"),
    ]
    assert set(merged.tensors) == {"parameter/a", "buffer/b"} and not merged.elsewhere
    assert not merged.finite and len(merged.files) == 2


def test_what_no_machine_here_has_stays_elsewhere() -> None:
    first, second = machines()
    merged = merge(first, replace(second, pieces={}, tensors={}))
    assert set(merged.elsewhere) == {"parameter/w", "buffer/b"}


def test_manifests_of_two_checkpoints_do_not_go_together(tmp_path: Path) -> None:
    first, second = machines()
    for change in ({"save": "other"}, {"step": 8}):
        write_manifest(manifest_file(tmp_path, 0), first)
        write_manifest(manifest_file(tmp_path, 1), replace(second, **change))
        with pytest.raises(CheckpointError, match="are of two checkpoints"):
            read_manifest(tmp_path)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=5), st.data())
def test_gaps_are_rows_that_no_piece_has_or_two_have(
    rows: list[tuple[int, int]], data: st.DataObject
) -> None:
    pieces = sorted(Piece(a, b, "") for a, b in rows if a < b)
    first = data.draw(st.integers(0, 7))
    end = data.draw(st.integers(first + 1, 8))
    held = [row for piece in pieces for row in range(piece.first, piece.end)]
    within = [p for p in pieces if p.first < end and p.end > first]
    once = all(held.count(row) == 1 for row in range(first, end))
    if not has_gaps(pieces, first, end):
        assert once
    elif once:
        # Pieces that overlap outside of what is wanted cannot be joined either.
        assert any(a.end > b.first for a, b in zip(within, within[1:], strict=False))


def test_a_tensor_is_spoken_of_by_kind_and_name() -> None:
    assert spoken("optimizer/exp_avg/layers.0.weight") == "optimizer exp_avg/layers.0.weight"
