"""What depends on no input is made on every stage that uses it, counted there, and sent nowhere."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.slow_cores import SLOW_CORES
from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.errors import PlanError
from pipecut.plan.check.check import check
from pipecut.plan.folder import PlanFolder
from pipecut.runtime.verify.verify import verify

JOB = """
model: {{factory: "tests.models.made:{name}"}}
inputs: "tests.models.made:rows"
batch: {{global: 8, microbatch: 2}}
"""


LAYERS = 'placement: {cut_before: ["layers.1", "layers.2", "layers.3"]}\n'


def plan_of(name: str, stages: int, folder: Path, extra: str = "") -> PlanFolder:
    """Links are slow, so that sending is dear."""
    (folder / "job.yaml").write_text(JOB.format(name=name) + extra)
    (folder / "cluster.yaml").write_text(
        SLOW_CORES.replace("fast: {bandwidth: 100GB/s", "fast: {bandwidth: 1MB/s")
    )
    return compile(
        folder / "job.yaml",
        str(folder / "cluster.yaml"),
        folder / "plan",
        Options(SizeOverrides(stages=stages)),
    )


@pytest.fixture(scope="module")
def biased(tmp_path_factory: pytest.TempPathFactory) -> PlanFolder:
    """A layer on each of four stages."""
    return plan_of("biased", 4, tmp_path_factory.mktemp("biased"), LAYERS)


def test_biases_tables_and_zeros_do_not_cross(biased: PlanFolder) -> None:
    shapes = [t.shape for boundary in biased.plan.boundaries for t in boundary.tensors]
    assert shapes == [["batch", 12, 16]] * 3
    made = {o.name: o.placed_on for o in biased.graph.operators if len(o.placed_on) > 1}
    assert any("embedding" in name for name in made) and any("cos" in name for name in made)
    assert (0, 1, 2, 3) in made.values()


def test_a_trained_parameter_of_what_is_made_is_tied(biased: PlanFolder) -> None:
    assert {tied.names[0]: tied.stages for tied in biased.plan.tied} == {
        "near.weight": [0, 1, 2, 3],
        "scale": [0, 1, 2, 3],
    }


def test_what_is_written_stays_on_one_stage(biased: PlanFolder) -> None:
    holders = [
        s.index for s in biased.plan.stages if any("seen" in held.names for held in s.buffers)
    ]
    assert len(holders) == 1


def test_noise_is_drawn_once_and_much_work_is_done_once(tmp_path: Path) -> None:
    noisy = plan_of("noisy", 4, tmp_path, LAYERS)
    once = [o for o in noisy.graph.operators if "rand" in o.target or "matmul" in o.target]
    assert len(once) == 2 and all(len(o.placed_on) == 1 for o in once)
    assert any(
        t.name.startswith("rand") for boundary in noisy.plan.boundaries for t in boundary.tensors
    )


def test_seconds_are_counted_on_every_stage(biased: PlanFolder) -> None:
    kind = biased.plan.stages[0].device
    for stage in biased.plan.stages:
        own = [o for o in biased.graph.operators if stage.index in o.placed_on]
        assert stage.forward_seconds == pytest.approx(sum(o.forward_seconds[kind] for o in own))
    assert sum(s.operators for s in biased.plan.stages) > len(biased.graph.operators)


def test_a_stage_that_lacks_what_it_uses_is_refused(biased: PlanFolder) -> None:
    operators = [
        o.model_copy(update={"stages": (0, 1, 2)}) if len(o.placed_on) == 4 else o
        for o in biased.graph.operators
    ]
    graph = biased.graph.model_copy(update={"operators": tuple(operators)})
    with pytest.raises(PlanError, match="needed on stage 3 but does not cross"):
        check(replace(biased, graph=graph))


@pytest.mark.parametrize(
    "extra",
    [
        "schedule: gpipe\n",
        pytest.param("schedule: zb-h1\nrecompute: always\n", marks=pytest.mark.slow),
    ],
)
def test_a_step_is_what_the_unsplit_model_does(extra: str, tmp_path: Path) -> None:
    found = verify(plan_of("biased", 4, tmp_path, extra + LAYERS).path, 2)
    assert found.passed, found.worst
    assert found.worst["loss"].value < 1e-6 and found.worst["buffer"].value == 0.0
