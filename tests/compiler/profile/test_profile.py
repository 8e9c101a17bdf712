"""Measured costs are kept, used, and reported when they are lacking.

Seconds themselves are no test's business.
"""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch

from pipecut.compiler import Options, SizeOverrides, compile, profile_job
from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.profile.layers import chains_of, layers_of
from pipecut.compiler.profile.pace import are_alike, pace_of, paces_here
from pipecut.compiler.profile.profile import Profiled
from pipecut.compiler.profile.runner import Runner
from pipecut.compiler.profile.scaled import measured_seconds
from pipecut.compiler.profile.store import Store
from pipecut.compiler.profile.timing import Timed
from pipecut.compiler.trace.trace import trace
from pipecut.errors import TraceError, UserFileError

CPU = torch.device("cpu")


def quiet(what: str, done: int, of: int) -> None:
    pass


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        pytest.param("gpt2", "tokens", marks=pytest.mark.slow),
        ("resnet", "images"),
        pytest.param("mixtral", "tokens", marks=pytest.mark.slow),
    ],
)
def test_a_profile_has_every_operator_and_is_used_by_compile(
    model: str, inputs: str, write_job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, store = write_job(model, inputs), tmp_path / "profile.sqlite"
    first, again = (_profiled_at(pace, job, store, monkeypatch) for pace in (1.0, 1.1))
    assert first.new > 20 and first.stored == first.again == 0
    assert (again.new, again.stored, again.again) == (0, first.new, 0)
    assert len(first.failed) <= 2, first.failed
    graph = trace(read_job(job))
    seconds = measured_seconds(graph, 2, ["cpu-core"], store)["cpu-core"]
    assert len(seconds) == len(graph.operators) and sum(f + b for f, b in seconds) > 0
    options = Options(SizeOverrides(stages=2), costs="profile", profile=store)
    # Now this machine is three times as slow as it was.
    monkeypatch.setattr("pipecut.compiler.graphs.paces_here", lambda kinds: {"cpu-core": 3.0})
    plan = compile(job, "auto", tmp_path / "plan", options).plan
    assert plan.notes[:2] == [
        "costs: measured on cpu-core",
        "cpu-core was measured while this machine was 3.0 times as fast as now; pipecut profile "
        "measures again",
    ]
    # What depends on no input is made on each stage that needs it.
    placed = json.loads((tmp_path / "plan" / "graph.json").read_text())["operators"]
    expected = sum(
        f * len(o.get("stages", [o["stage"]])) for (f, _), o in zip(seconds, placed, strict=True)
    )
    assert sum(s.forward_seconds for s in plan.stages) == pytest.approx(expected, rel=1e-6)


def _profiled_at(pace: float, job: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Profiled:
    monkeypatch.setattr("pipecut.compiler.profile.job.pace_of", lambda device: pace)
    return profile_job(job, CPU, None, store, quiet)


def test_what_was_measured_at_another_pace_is_measured_again(
    write_job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, store = write_job("mlp", "vectors"), tmp_path / "profile.sqlite"
    first, slower = (_profiled_at(pace, job, store, monkeypatch) for pace in (1.0, 2.0))
    assert slower.new == slower.again == first.new and slower.stored == 0
    measured = Store(store, "cpu-core").measurements()
    assert {measurement.pace for measurement in measured.values()} == {2.0}


def test_a_pace_is_seconds_and_two_are_alike_within_thirty_percent() -> None:
    assert 0 < pace_of(CPU) < 1 and set(paces_here(["cpu-core", "elsewhere"])) == {"cpu-core"}
    assert are_alike(1.0, 1.29) and are_alike(1.29, 1.0)
    assert not are_alike(1.0, 1.31) and not are_alike(1.31, 1.0)


OPAQUE = """
model: {{factory: "tests.models.opaque:{model}", args: {args}, opaque: ["{opaque}"]}}
inputs: "tests.models.opaque:tokens"
batch: {{global: 8, microbatch: 2}}
"""


@pytest.mark.slow
def test_opaque_modules_are_part_of_their_layers(tmp_path: Path) -> None:
    job, store = tmp_path / "job.yaml", tmp_path / "profile.sqlite"
    job.write_text(OPAQUE.format(model="mixture", args="{layers: 2}", opaque="layers.*.moe"))
    assert profile_job(job, CPU, None, store, quiet).failed == ("pipecut.opaque.tensors",)
    seconds = measured_seconds(trace(read_job(job)), 2, ["cpu-core"], store)["cpu-core"]
    graph = trace(read_job(job))
    opaque = [s for s, o in zip(seconds, graph.operators, strict=True) if o.opaque is not None]
    assert len(opaque) == 2 and all(forward > 0 and backward > 0 for forward, backward in opaque)
    options = Options(SizeOverrides(stages=2), costs="profile", profile=store)
    compile(job, "auto", tmp_path / "plan", options)


@pytest.mark.slow
def test_an_opaque_module_that_needs_its_own_parameters_cannot_be_timed(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(OPAQUE.format(model="odd", args="{kinds: [positive]}", opaque="blocks.*"))
    with pytest.raises(TraceError, match="'blocks.positive' runs as it is, and fails with random"):
        profile_job(job, CPU, None, tmp_path / "profile.sqlite", quiet)


def test_what_the_profile_lacks_is_reported(write_job: Any, tmp_path: Path) -> None:
    options = Options(SizeOverrides(stages=2), costs="profile", profile=tmp_path / "nothing.sqlite")
    with pytest.raises(UserFileError, match="no measurements on cpu-core .* run pipecut profile"):
        compile(write_job("mlp", "vectors"), "auto", tmp_path / "plan", options)


def test_another_torch_measures_again(write_job: Any, tmp_path: Path) -> None:
    job, store = write_job("mlp", "vectors"), tmp_path / "profile.sqlite"
    profile_job(job, CPU, None, store, quiet)
    connection = sqlite3.connect(store)
    with connection:
        connection.execute("update measured_at_pace set torch = '1.0'")
    connection.close()
    assert measured_seconds(trace(read_job(job)), 2, ["cpu-core"], store) == {}


def test_a_file_that_is_no_profile_is_refused(write_job: Any, tmp_path: Path) -> None:
    store = tmp_path / "profile.sqlite"
    store.write_text("not a database, but long enough to be looked at as one")
    with pytest.raises(UserFileError, match="cannot be used as a profile"):
        profile_job(write_job("mlp", "vectors"), CPU, None, store, quiet)


def test_layers_cover_the_graph_and_make_the_models_loss(write_job: Any) -> None:
    job = read_job(write_job("mlp", "vectors"))
    graph = trace(job)
    layers = layers_of(graph)
    assert [i for layer in layers for i in layer.operators] == list(range(len(graph.operators)))
    from tests.models.core import vectors

    runner = Runner(graph, vectors(2), CPU)
    timed = [
        one for chain in chains_of(graph, layers, CPU) for one in runner.run(chain, timed=True)
    ]
    assert all(isinstance(one, Timed) for one in timed)
    assert torch.isfinite(runner.values[graph.loss])
