"""Notes of a plan, and where it is from."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipecut.compiler.candidate import Candidate
from pipecut.compiler.fit import notes_on_reserves
from pipecut.compiler.notes import notes_of
from pipecut.compiler.provenance import device_positions, source_of
from pipecut.compiler.request import Options, Request
from pipecut.compiler.search.search import Chosen
from tests.costs import made_cluster, made_device, made_job


def unequal() -> Any:
    return made_cluster([made_device(kind, node) for node, kind in enumerate(["a", "b", "a"])])


def test_positions_are_those_of_the_whole_cluster() -> None:
    cluster = unequal()
    ordered = replace(cluster, devices=tuple(cluster.devices[i] for i in (1, 0)))
    assert device_positions(cluster, ordered, lost=[2]) == [1, 0]
    assert device_positions(made_cluster(4), made_cluster(4).without([1]), lost=[1]) == [0, 2, 3]


def test_a_source_names_files_by_their_whole_paths(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yaml").write_text("name: x\n")
    cluster = unequal()
    draft: Any = SimpleNamespace(
        cluster=cluster.without([0]), candidate=Candidate(2, 1, 2, 4, "1f1b")
    )
    options = Options(lost=(0,))
    request = Request(Path("job.yaml"), "cluster.yaml", Path("plan"), options)
    source = source_of(request, made_job().spec, cluster, draft)
    assert source.job == str(tmp_path / "job.yaml")
    assert source.cluster == str(tmp_path / "cluster.yaml")
    assert (source.available, source.devices, source.lost) == (3, [1, 2], [0])
    assert source.nodes == [1, 2] and set(source.names) == {"a", "b"}
    named = replace(request, cluster="hgx-h100")
    assert source_of(named, made_job().spec, cluster, draft).cluster == "hgx-h100"


@pytest.mark.parametrize(
    ("keys", "replicas", "compared", "measured", "expected"),
    [
        ({}, 1, 0, (), ["costs: roofline estimates; pipecut profile measures them"]),
        ({}, 1, 0, ("core",), ["costs: measured on core"]),
        ({"shard_optimizer": True}, 1, 0, ("core",), ["shard_optimizer: true divides nothing"]),
        ({"shard_optimizer": True}, 2, 0, ("core",), ["costs: measured on core"]),
        ({"compile": "inductor"}, 1, 0, (), ["times and memory are those of eager stages"]),
        ({}, 1, 7, (), ["chosen of 7 candidates: 2 stages x 1 replica"]),
    ],
)
def test_notes_say_what_the_numbers_rest_on(
    keys: dict[str, Any],
    replicas: int,
    compared: int,
    measured: tuple[str, ...],
    expected: list[str],
) -> None:
    choice = Chosen(Candidate(2, replicas, 2, 4, "1f1b"), compared=compared)
    costs: Any = SimpleNamespace(measured_kinds=lambda _: measured, other_paces=lambda _: [])
    notes = notes_of(made_job(**keys), made_cluster(), costs, choice)
    assert notes[-1].startswith(expected[0]) and len(notes) == 1 + (
        not notes[-1].startswith("costs")
    )


def test_a_note_names_the_ranks_that_leave_more_free() -> None:
    assert notes_on_reserves(made_cluster(2)) == []
    raised = made_cluster(2, reserve=2**20).leaving_free([0, 2**20])
    assert notes_on_reserves(raised) == [
        "the reserve was raised for what a step takes at its peak, to 2.0 MiB on rank 1"
    ]
