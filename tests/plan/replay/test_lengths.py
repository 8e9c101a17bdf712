"""A step of microbatches of different lengths is predicted from seconds at a few of them."""

from dataclasses import replace

import pytest

from pipecut.compiler.schedules.lower import lower
from pipecut.compiler.schedules.registry import orders
from pipecut.plan.actions import Hop
from pipecut.plan.replay.lengths import costs_for
from pipecut.plan.replay.simulate import Costs, costs_of, simulate
from pipecut.plan.schema import Batch, LengthRange, Plan, SecondsAt
from tests.plans import made_plan, made_stage, made_tensor

SHARES = (0.25, 0.5, 0.75)


def forward(share: float) -> float:
    """Seconds of a forward at a share of the longest length; backward takes twice as long."""
    return 4 * share**2 + 4 * share


def plan_of() -> Plan:
    shorter = [
        SecondsAt(share=s, forward_seconds=forward(s), backward_seconds=2 * forward(s))
        for s in SHARES
    ]
    stages = [
        made_stage(i, 2, forward_seconds=8.0, backward_seconds=16.0, shorter=shorter)
        for i in range(2)
    ]
    lengths = {"length": LengthRange(shortest=2, longest=16)}
    batch = Batch(global_size=8, microbatch=2, dynamic=True, lengths=lengths)
    plan = made_plan(2, stages=stages, batch=batch)
    hidden = made_tensor("hidden_0", shape=["batch", "length", 4])
    boundary = plan.boundaries[0].model_copy(update={"tensors": [hidden]})
    return plan.model_copy(update={"boundaries": [boundary]})


@pytest.mark.parametrize(("samples", "length"), [(2, 16), (2, 8), (1, 8), (2, 4), (1, 12)])
def test_a_known_length_takes_what_it_took(samples: int, length: int) -> None:
    plan = plan_of()
    costs = costs_for(plan, costs_of(plan), {"batch": samples, "length": length})
    assert costs.forward[0] == pytest.approx(forward(length / 16) * samples / 2)
    assert costs.backward[1] == pytest.approx(2 * costs.forward[1])
    assert costs.transfers[Hop("F", 1)] == pytest.approx(samples * length * 4 * 4 / 1e9)


@pytest.mark.parametrize("length", range(4, 17))
def test_between_known_lengths_a_64th_is_added_to_what_grows_with_the_square(length: int) -> None:
    plan = plan_of()
    costs = costs_for(plan, costs_of(plan), {"batch": 2, "length": length})
    exact = forward(length / 16)
    assert exact - 1e-9 <= costs.forward[0] <= exact + 4 / 64 + 1e-9


def test_each_microbatch_takes_its_own_time() -> None:
    plan = plan_of()
    actions = lower(orders("1f1b", 2, 4, 1), (0, 1), {0}, {0}, reduce=False)

    def step(*lengths: int) -> float:
        whole = costs_of(plan)
        own: list[Costs] = [costs_for(plan, whole, {"batch": 2, "length": n}) for n in lengths]
        return simulate(actions, replace(whole, by_microbatch=own)).step_seconds

    assert step(16, 16, 16, 16) == pytest.approx(simulate(actions, costs_of(plan)).step_seconds)
    # Short ones first and last: others wait less for the first forward and the last backward.
    assert step(4, 16, 16, 4) < step(16, 4, 4, 16) < step(16, 16, 16, 16)
