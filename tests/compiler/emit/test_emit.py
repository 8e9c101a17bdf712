"""A draft becomes a plan, its replay finds the peaks, and emit writes it whole or not at all."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipecut.compiler.emit.folder import emit
from pipecut.compiler.emit.graph import graph_of
from pipecut.compiler.emit.plan import plan_of
from pipecut.compiler.emit.publish import publish
from pipecut.compiler.predict.memory import UPPER_BOUND, replay
from pipecut.compiler.stages.source import write_stage
from pipecut.errors import PlanError, UserFileError
from pipecut.plan.check.check import check
from pipecut.plan.edit.sealing import schedule_text
from pipecut.plan.folder import read_plan
from pipecut.plan.schema import VERSION, Plan, Source
from pipecut.plan.trust import is_trusted
from tests.compiler.drafts import Drafted, drafted
from tests.golden import check_golden

SOURCE = Source(job="job.yaml", cluster="golden", available=2, devices=[0, 1])


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Drafted:
    return drafted(tmp_path_factory.mktemp("tied"), "tied")


@pytest.fixture(scope="module")
def plan(tied: Drafted) -> Plan:
    plan = plan_of(tied.job, tied.costed, tied.draft, SOURCE, ["a note"])
    return replay(plan, tied.costed.graph, tied.draft.scheduled, tied.draft.code)


def test_a_plan_prints_as_it_was_read(plan: Plan) -> None:
    # The solver's clock differs from run to run.
    certificate = plan.certificate.model_copy(update={"seconds": 0.0, "solver": "solver"})
    check_golden("plan/tied", str(plan.model_copy(update={"certificate": certificate})))


def test_a_plan_says_what_the_draft_decided(tied: Drafted, plan: Plan) -> None:
    assert plan.version == VERSION and plan.source == SOURCE and plan.notes == ["a note"]
    assert [tensor.name for tensor in plan.inputs] == ["tokens", "labels"]
    # The model returns nothing but its loss, which needs the labels too.
    assert [tensor.optional for tensor in plan.inputs] == [False, False]
    assert [tied.names for tied in plan.tied] == [["embed.weight", "head.weight"]]
    assert [stage.operators for stage in plan.stages] == [3, 4]
    assert plan.boundaries[0].tensors[0].shape == ["batch", 4, 8]
    assert plan.prediction.step_seconds == tied.draft.scheduled.step_seconds
    # Both stages hold the shared weight; 16 x 8 numbers, and a layer of 8 x 8 with its bias.
    assert [stage.parameter_count for stage in plan.stages] == [128 + 72, 128]


def test_stage_code_that_is_no_python_is_never_published(
    tied: Drafted, plan: Plan, tmp_path: Path
) -> None:
    draft = replace(tied.draft, code=("x = 1\ny = = x\n",) * 2)
    with (
        pytest.raises(PlanError, match=r"stage_0\.py:2:\d+: invalid syntax"),
        emit(plan, tied.costed, draft, tmp_path / "plan"),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_what_is_written_later_is_not_in_the_plan(plan: Plan) -> None:
    assert plan.hashes == {} and plan.seal == ""
    assert "evaluation" not in plan.model_dump(exclude_unset=True)


def test_a_replay_adds_peaks_and_leaves_the_rest(tied: Drafted, plan: Plan) -> None:
    before = plan_of(tied.job, tied.costed, tied.draft, SOURCE, ["a note"])
    found = {"passes", "peak_bytes", "outside_bytes"}
    for old, new in zip(before.stages, plan.stages, strict=True):
        assert old.model_dump(exclude=found) == new.model_dump(exclude=found)
        assert old.passes is None and new.passes is not None
        # Weights and their gradients at the least, and less than the device has.
        assert 2 * 4 * new.parameter_count <= new.peak_bytes <= new.device_bytes


def test_a_stage_that_cannot_run_on_fake_tensors_has_an_upper_bound(tied: Drafted) -> None:
    graph = tied.costed.graph
    first = replace(graph.operators[0], target="aten.no_such_operator.default")
    graph = replace(graph, operators=(first, *graph.operators[1:]))
    plan = plan_of(tied.job, tied.costed, tied.draft, SOURCE, [])
    code = tuple(write_stage(graph, cut, 2) for cut in tied.draft.scheduled.cuts)
    plan = replay(plan, graph, tied.draft.scheduled, code)
    assert [stage.passes is None for stage in plan.stages] == [True, False]
    assert plan.notes == [UPPER_BOUND]
    first_stage = plan.stages[0]
    assert first_stage.peak_bytes == first_stage.memory_bytes + first_stage.buffer_bytes


def test_operators_keep_their_costs_and_stages_in_graph_json(tied: Drafted) -> None:
    graph = graph_of(tied.costed, tied.draft.placement, tied.draft.scheduled.cuts)
    assert [operator.stage for operator in graph.operators] == [0, 0, 0, 1, 1, 1, 1]
    costs = [operator.forward_seconds["slow-core"] for operator in graph.operators]
    assert costs == [cost.forward["slow-core"] for cost in tied.costed.costs]
    assert graph.parameters[0].names == ("embed.weight", "head.weight")
    assert graph.evaluation is None


def test_what_every_stage_makes_has_all_its_stages_in_graph_json(tied: Drafted) -> None:
    placement = tied.draft.placement
    stages_of = (frozenset({0, 1}), *placement.stages_of[1:])
    graph = graph_of(tied.costed, replace(placement, stages_of=stages_of), ())
    assert graph.operators[0].placed_on == (0, 1) and graph.operators[0].stage == 0
    assert "stages" not in graph.operators[1].model_dump(exclude_unset=True)


def test_a_schedule_is_written_as_a_row_per_rank(tied: Drafted) -> None:
    lines = schedule_text(tied.draft.scheduled.actions).splitlines()
    assert lines[:2] == ["# Actions of each rank in order: KIND stage.microbatch", "ranks:"]
    assert lines[2].startswith("  - [F 0.0, SEND_F 0.0, ") and lines[2].endswith(", REDUCE]")
    assert len(lines) == 4


def test_what_is_emitted_is_read_checked_and_published(
    tied: Drafted, plan: Plan, tmp_path: Path
) -> None:
    target = tmp_path / "new" / "plan"
    with emit(plan, tied.costed, tied.draft, target) as folder:
        # Beside the target, where nobody looks for a plan.
        assert folder.path.parent == target.parent and not target.exists()
        check(folder)
        published = publish(folder, target)
    assert published.path == target and read_plan(target) == published
    assert is_trusted(published.plan.seal)
    assert [path.name for path in target.parent.iterdir()] == ["plan"]
    assert oct(target.stat().st_mode)[-3:] == "755"


def test_what_is_not_published_is_removed(tied: Drafted, plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), emit(plan, tied.costed, tied.draft, tmp_path / "plan"):
        raise RuntimeError("the check failed")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named_with_a_remedy(
    tied: Drafted, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "chmod", full)
    message = "plan cannot be written: No space left on device; give another -o"
    with pytest.raises(UserFileError, match=message):
        with emit(plan, tied.costed, tied.draft, tmp_path / "plan") as folder:
            publish(folder, tmp_path / "plan")
    assert list(tmp_path.iterdir()) == []


def test_a_target_under_a_file_is_refused(tied: Drafted, plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserFileError, match="cannot be written: .*give another -o"):
        with emit(plan, tied.costed, tied.draft, tmp_path / "file" / "plan"):
            pass


def test_a_written_buffer_is_marked_and_saved(tmp_path: Path) -> None:
    model = drafted(tmp_path, "counter")
    plan = plan_of(model.job, model.costed, model.draft, SOURCE, [])
    buffer = plan.stages[0].buffers[0]
    assert buffer.names == ["total"] and buffer.written and buffer.shape == [8]
    with emit(plan, model.costed, model.draft, tmp_path / "plan") as folder:
        from safetensors.torch import load_file

        saved = load_file(folder.path / "stages" / "stage_0.safetensors")
    assert torch.equal(saved["total"], torch.zeros(8))
