"""The memory of a step, action by action, as worked out by hand."""

from typing import Any

import pytest

from pipecut.plan.layout import Place
from pipecut.plan.replay.memory import (
    MemoryPoint,
    kept_bytes,
    memory_curve,
    memory_over_time,
    outside_bytes,
    padded_bytes,
    peak_of,
)
from pipecut.plan.replay.simulate import predicted
from pipecut.plan.schema import Optimizer, Plan, StageTensor
from pipecut.plan.schema.plan import Tied
from tests.golden import check_golden
from tests.graphs import made_actions, made_folder
from tests.plans import PASSES, made_plan, made_stage

WEIGHT, BATCH, MESSAGE = 64, 64, 32


def after(plan: Plan, row: str, rank: int = 0) -> list[int]:
    """Bytes alive after each action of a rank."""
    rows = [""] * rank + [row]
    curve = memory_curve(plan, made_actions(*rows)[rank], rank)
    assert curve is not None
    return [moment.after for moment in curve.moments]


def step_of(**fields: Any) -> Plan:
    return made_folder(**fields).plan


def test_a_forward_keeps_what_backward_needs_and_what_is_on_its_way() -> None:
    begin = WEIGHT + BATCH
    bytes_after = after(step_of(), "F 0.0, RECV_B 0.0, B 0.0")
    assert bytes_after[0] == begin + PASSES.kept
    assert bytes_after[1] == bytes_after[0] + MESSAGE
    # The gradient of the parameter stays.
    assert bytes_after[2] == begin + PASSES.gradients


def test_the_first_backward_of_a_step_peaks_higher_than_the_others() -> None:
    row = made_actions("F 0.0, RECV_B 0.0, B 0.0, F 0.1, RECV_B 0.1, B 0.1")[0]
    curve = memory_curve(step_of(), row, 0)
    assert curve is not None
    first, second = [m for m in curve.moments if str(m.action).startswith("B")]
    # Without what was saved, and what was sent and has left since.
    held = WEIGHT + BATCH + MESSAGE
    assert first.peak == held + PASSES.first_backward_peak
    assert second.peak == held + PASSES.gradients + PASSES.backward_peak
    assert curve.peak == max(first.peak, second.peak)


def test_of_many_messages_on_their_way_the_old_ones_have_left() -> None:
    sends = "F 0.0, SEND_F 0.0, F 0.1, SEND_F 0.1, F 0.2, SEND_F 0.2, F 0.3, SEND_F 0.3"
    bytes_after = after(step_of(), sends)
    # The third send waits for none, the fourth until the first has left.
    leaving = PASSES.kept - PASSES.saved
    assert bytes_after[4] == bytes_after[5]
    assert bytes_after[7] == bytes_after[6] - leaving


def test_weights_that_come_later_hold_what_they_need() -> None:
    later = PASSES.model_copy(
        update={"weights_kept": 5, "weights_gradients": 64, "weights_peak": 7, "gradients": 0}
    )
    folder = made_folder()
    stages = [s.model_copy(update={"passes": later}) for s in folder.plan.stages]
    plan = folder.plan.model_copy(update={"stages": stages})
    begin = WEIGHT + BATCH
    bytes_after = after(plan, "F 0.0, RECV_B 0.0, I 0.0, W 0.0")
    assert bytes_after[2:] == [begin + 5, begin + 64]


def test_stages_of_one_rank_hand_over_what_is_alive_already() -> None:
    stages = [made_stage(0, 2), made_stage(1, 2, pipeline_rank=0)]
    bytes_after = after(step_of(stages=stages), "F 0.0, F 1.0, B 1.0, B 0.0")
    begin = 2 * WEIGHT + BATCH
    assert bytes_after[:2] == [begin + PASSES.kept, begin + 2 * PASSES.kept]
    # Both weights have gradients, and nothing is on its way.
    assert bytes_after[-1] == begin + 2 * PASSES.gradients


def test_a_weight_that_two_stages_of_a_rank_share_is_counted_once() -> None:
    weight = made_stage(0, 2).parameters
    stages = [made_stage(0, 2), made_stage(1, 2, pipeline_rank=0, parameters=weight)]
    bytes_after = after(step_of(stages=stages), "F 0.0, F 1.0, B 1.0, B 0.0")
    assert bytes_after[-1] == WEIGHT + BATCH + PASSES.gradients


def test_a_sum_over_more_than_two_ranks_gathers_what_all_have() -> None:
    tied = Tied(names=["layers.0.weight"], stages=[0, 1, 2])
    weight = made_stage(0, 3).parameters
    stages = [made_stage(index, 3, parameters=weight) for index in range(3)]
    curve = memory_curve(made_plan(3, stages=stages, tied=[tied]), made_actions("REDUCE")[0], 0)
    assert curve is not None
    (moment,) = curve.moments
    assert moment.peak - moment.after == (3 + 1) * WEIGHT


def test_without_the_passes_the_partitioners_count_is_the_peak() -> None:
    stages = [made_stage(0, 2, passes=None, buffer_bytes=5), made_stage(1, 2)]
    plan = step_of(stages=stages)
    assert memory_curve(plan, (), 0) is None
    assert peak_of(plan, (), 0) == 1000 + 5


@pytest.mark.parametrize(
    ("dtype", "optimizer", "shards", "expected"),
    [
        ("float32", "sgd", 1, 84),
        ("float32", "adamw", 1, 84 * 3),
        # A float32 master and two float32 states, beside the weight itself.
        ("bfloat16", "adamw", 1, 42 + 84 * 3),
        # Four of seven rows.
        ("float32", "adamw", 2, 84 + 48 * 2),
        # Fewer rows than replicas: all have all of them.
        ("float32", "adamw", 8, 84 * 3),
    ],
)
def test_states_and_masters_are_counted_with_the_weight(
    dtype: str, optimizer: str, shards: int, expected: int
) -> None:
    tensor = StageTensor(names=["w"], shape=[7, 3], dtype=dtype, trainable=True)
    assert kept_bytes(tensor, Optimizer(name=optimizer), shards) == expected


def test_rows_are_padded_only_where_replicas_have_unequal_ones() -> None:
    tensor = StageTensor(names=["w"], shape=[7, 3], dtype="float32", trainable=True)
    assert padded_bytes(tensor, 2) == 2 * 4 * 3 * 4
    assert padded_bytes(tensor, 7) == padded_bytes(tensor, 1) == padded_bytes(tensor, 8) == 0


def test_a_cpu_has_nothing_that_tensors_cannot_have() -> None:
    plan = made_plan(2)
    assert outside_bytes(plan, 0) == 0
    gpus = [s.model_copy(update={"device_type": "cuda"}) for s in plan.stages]
    assert outside_bytes(made_plan(2, stages=gpus), 0) > 600 * 2**20
    assert plan.layout.rank(Place(1)) == 1


def test_memory_over_time_has_peaks_at_starts_and_the_rest_at_ends() -> None:
    folder = made_folder()
    first = memory_over_time(folder, predicted(folder))[0]
    begin = WEIGHT + BATCH
    assert first[0] == MemoryPoint(0.0, begin + PASSES.forward_peak)
    assert first[1] == MemoryPoint(1.0, begin + PASSES.kept)


def test_a_memory_curve_prints_itself() -> None:
    folder = made_folder()
    check_golden("replay/memory", str(memory_curve(folder.plan, folder.actions[0], 0)))


def test_what_stands_and_what_gradients_take_are_parts_of_what_is_alive() -> None:
    curve = memory_curve(step_of(optimizer="adamw"), made_actions("F 0.0, RECV_B 0.0, B 0.0")[0], 0)
    assert curve is not None
    standing = curve.standing
    assert (standing.parameters, standing.optimizer, standing.batch) == (WEIGHT, 2 * WEIGHT, BATCH)
    assert [m.gradients for m in curve.moments] == [0, 0, PASSES.gradients]
    # After its backward a microbatch leaves gradients alone.
    assert curve.moments[-1].after == standing.total + PASSES.gradients
