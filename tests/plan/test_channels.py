"""Groups of a plan: who shares a communicator, and in which order they open."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipecut.plan.channels import Channel, Group, channels, groups_of, in_phases
from pipecut.plan.replay.deadlock import check_opening
from pipecut.plan.schema import Boundary, Evaluation
from pipecut.plan.schema.plan import Tied
from pipecut.plan.schema.stage import EvaluationStage
from tests.plans import made_plan, made_stage, made_tensor


def test_each_direction_that_is_used_has_a_channel() -> None:
    assert channels(made_plan(3)) == [
        Channel(0, 1),
        Channel(1, 0),
        Channel(1, 2),
        Channel(2, 1),
    ]


def test_where_no_gradient_returns_there_is_one_channel() -> None:
    frozen = Boundary(
        left=0, tensors=[made_tensor("hidden_0", needs_grad=False)], bandwidth=1e9, latency=0.0
    )
    assert channels(made_plan(2, boundaries=[frozen])) == [Channel(0, 1)]
    nothing = frozen.model_copy(update={"tensors": []})
    assert channels(made_plan(2, boundaries=[nothing])) == []


def test_what_only_eval_mode_sends_has_a_channel_too() -> None:
    nothing = Boundary(left=0, tensors=[], bandwidth=1e9, latency=0.0)
    stage = EvaluationStage(operators=1, receives=[], batch_inputs=[], sends=[])
    tensors = [made_tensor("h", needs_grad=False)]
    evaluation = Evaluation(stages=[stage, stage], boundaries=[tensors])
    assert channels(made_plan(2, boundaries=[nothing], evaluation=evaluation)) == [Channel(0, 1)]


def test_stages_of_one_rank_need_no_channel() -> None:
    stages = [made_stage(0, 2), made_stage(1, 2, pipeline_rank=0)]
    plan = made_plan(2, stages=stages)
    assert channels(plan) == [] and groups_of(plan) == []


def test_every_replica_has_channels_and_ties_of_its_own() -> None:
    tied = Tied(names=["layers.0.weight"], stages=[0, 1])
    groups = {str(group) for group in groups_of(made_plan(2, replicas=2, tied=[tied]))}
    assert groups == {
        "channel 0 -> 2",
        "channel 2 -> 0",
        "channel 1 -> 3",
        "channel 3 -> 1",
        "group of tied ranks 0, 2",
        "group of tied ranks 1, 3",
        "group of replicas ranks 0, 1",
        "group of replicas ranks 2, 3",
        "group of all ranks",
    }


def test_parameters_of_the_same_ranks_share_a_group() -> None:
    tied = [Tied(names=[name], stages=[0, 1]) for name in ("embedding", "bias")]
    kinds = [group.kind for group in groups_of(made_plan(2, tied=tied))]
    assert kinds.count("tied") == 1


@given(st.integers(2, 9), st.data())
def test_groups_in_phases_open_without_a_circle(ranks: int, data: Any) -> None:
    several = st.lists(st.integers(0, ranks - 1), min_size=2, max_size=ranks, unique=True)
    drawn = data.draw(st.lists(several, max_size=20))
    groups = in_phases(Group("tied", tuple(members)) for members in drawn)
    assert sorted(g.ranks for g in groups) == sorted(tuple(members) for members in drawn)
    check_opening({r: [g.ranks for g in groups if r in g.ranks] for r in range(ranks)})
