"""A placement is ordered, lowered and replayed: the step follows from its stages' seconds."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipecut.compiler.candidate import Candidate
from pipecut.compiler.predict.step import Scheduled, schedule
from tests.compiler.drafts import Drafted, drafted


@pytest.fixture(scope="module")
def skip(tmp_path_factory: pytest.TempPathFactory) -> Drafted:
    return drafted(tmp_path_factory.mktemp("skip"), "skip")


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Drafted:
    return drafted(tmp_path_factory.mktemp("tied"), "tied")


def scheduled(model: Drafted, name: str = "1f1b", microbatches: int = 4) -> Scheduled:
    sizes = Candidate(2, 1, 2, microbatches, name)
    return schedule(model.costed, model.cluster, model.draft.placement, sizes)


def test_stages_take_what_the_placement_counts_but_for_transfers(skip: Drafted) -> None:
    result, placement = scheduled(skip), skip.draft.placement
    for seconds, load in zip(result.seconds, placement.loads, strict=True):
        assert seconds.forward + seconds.backward <= load
        assert seconds.reduce == 0.0 and seconds.weights == 0.0
    assert result.ties == () and result.pipeline_rank_of == (0, 1)


def test_a_step_is_no_shorter_than_its_slowest_stage(skip: Drafted) -> None:
    result = scheduled(skip)
    slowest = max(stage.forward + stage.backward for stage in result.seconds)
    assert result.step_seconds >= 4 * slowest
    assert 0 < result.bubble < 1


def test_more_microbatches_leave_less_of_a_bubble(skip: Drafted) -> None:
    few, many = scheduled(skip, microbatches=4), scheduled(skip, microbatches=16)
    assert many.bubble < few.bubble
    assert few.step_seconds < many.step_seconds < 4 * few.step_seconds


def test_a_schedule_that_splits_backward_puts_gradients_of_weights_off(skip: Drafted) -> None:
    split, whole = scheduled(skip, "zb-h1"), scheduled(skip)
    for stage, unsplit in zip(split.seconds, whole.seconds, strict=True):
        assert stage.backward == unsplit.backward and 0 < stage.weights < stage.backward
    assert any(str(action).startswith("W ") for action in split.actions[0])


def test_recomputing_adds_a_forward_to_every_backward(skip: Drafted) -> None:
    placement = replace(skip.draft.placement, recompute=(True, True))
    sizes = Candidate(2, 1, 2, 4, "1f1b")
    again = schedule(skip.costed, skip.cluster, placement, sizes)
    plain = scheduled(skip)
    # Of the stages themselves nothing changes; the step has their forwards once more.
    assert again.seconds == plain.seconds
    slowest = max(stage.forward for stage in plain.seconds)
    assert again.step_seconds > plain.step_seconds + 3 * slowest


def test_a_tied_parameter_is_summed_at_the_end_of_the_step(tied: Drafted) -> None:
    result = scheduled(tied)
    (tie,) = result.ties
    assert tie.parameter.names == ("embed.weight", "head.weight") and tie.stages == (0, 1)
    # 16 x 8 float32 numbers over a link of 1 GB/s and 1 us, and a core that adds.
    assert 2e-6 < tie.seconds < 1e-5
    assert [str(row[-1]) for row in result.actions] == ["REDUCE", "REDUCE"]


def test_replicas_sum_every_stage(tmp_path: Path) -> None:
    model = drafted(tmp_path, "skip", stages=4)
    sizes = Candidate(2, 2, 2, 2, "1f1b")
    stages_of = tuple(frozenset({0}) if i < 4 else frozenset({1}) for i in range(12))
    placement = replace(model.draft.placement, stages_of=stages_of, recompute=(False, False))
    problem = replace(placement.problem, stage_devices=placement.problem.stage_devices[:2])
    result = schedule(model.costed, model.cluster, replace(placement, problem=problem), sizes)
    assert all(stage.reduce > 0 for stage in result.seconds)
    assert [str(row[-1]) for row in result.actions] == ["REDUCE", "REDUCE"]
