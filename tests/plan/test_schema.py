"""Dimensions are evaluated without running code; sizes and weights follow from a plan's values."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipecut.errors import PlanError, RunError
from pipecut.plan.schema import (
    Batch,
    Evaluation,
    EvaluationStage,
    StageTensor,
    Terms,
    evaluate,
)
from tests.plans import made_plan, made_stage, made_tensor


@pytest.mark.parametrize(
    ("dimension", "size"),
    [(7, 7), ("batch", 3), ("16*batch", 48), ("(batch+1)//2", 2), ("-batch % 5", 2), ("2**4", 16)],
)
def test_a_dimension_is_an_expression_in_the_batch(dimension: int | str, size: int) -> None:
    assert evaluate(dimension, {"batch": 3}) == size


@pytest.mark.parametrize(
    "dimension",
    [
        *("batch()", "batch.real", "other", "1.5", "'a'", "[1]", "batch and 1", "1 < 2"),
        *("9**9**9", "2**-1", "batch**5", "lambda: 1", f"{2**63} + 1"),
    ],
)
def test_nothing_else_is_evaluated(dimension: str) -> None:
    with pytest.raises(PlanError, match="that is no expression in batch"):
        evaluate(dimension, {"batch": 3})


@pytest.mark.parametrize("dimension", ["", "1//0", "batch +", "(" * 500, "1" * 5000])
def test_what_cannot_be_read_is_refused(dimension: str) -> None:
    with pytest.raises(PlanError, match="a dimension '.*' that cannot be read"):
        evaluate(dimension, {"batch": 3})


LEAVES = st.integers(0, 9).map(str) | st.just("batch")


def operations(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Sums, differences and products of two expressions, in parentheses."""
    parts = st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner)
    return parts.map(lambda expression: f"({''.join(expression)})")


@given(st.recursive(LEAVES, operations))
def test_expressions_mean_what_python_means(expression: str) -> None:
    assert evaluate(expression, {"batch": 5}) == eval(expression, {"batch": 5})


def test_sizes_of_a_tensor_follow_the_batch() -> None:
    tensor = made_tensor("x", shape=[2, "batch", "3*batch"], dtype="bfloat16")
    assert (
        tensor.sizes({"batch": 4}) == [2, 4, 12]
        and tensor.bytes_for({"batch": 4}) == 2 * 2 * 4 * 12
    )
    assert tensor.samples_at == 1 and made_tensor("y", shape=["2*batch"]).samples_at == 0


@pytest.mark.parametrize(
    ("dtype", "trainable", "size"),
    [("float32", True, 64), ("bfloat16", True, 64), ("float64", True, 128), ("float32", False, 0)],
)
def test_gradients_of_half_precision_are_float32(dtype: str, trainable: bool, size: int) -> None:
    tensor = StageTensor(names=["w"], shape=[4, 4], dtype=dtype, trainable=trainable)
    assert tensor.gradient_bytes == size


def test_microbatches_weigh_by_samples() -> None:
    batch = Batch(global_size=8, microbatch=3, dynamic=True)
    assert batch.weights([], [3, 3, 2]) == [3 / 8, 3 / 8, 2 / 8]


def test_microbatches_weigh_by_the_labels_that_count() -> None:
    terms = Terms(input="labels", ignored=-100, skipped=1)
    batch = Batch(global_size=2, microbatch=1, dynamic=True, terms=terms)
    # The first label of each sample is skipped whatever it is.
    labels = torch.tensor([[5, 1, -100], [-100, 2, 3]])
    assert batch.weights([{"labels": row[None]} for row in labels], [1, 1]) == [1 / 3, 2 / 3]


def test_a_microbatch_without_a_counted_label_is_refused() -> None:
    terms = Terms(input="labels", ignored=0, skipped=0)
    batch = Batch(global_size=2, microbatch=1, dynamic=True, terms=terms)
    with pytest.raises(RunError, match="no label of microbatch 1 counts .* regroup the samples"):
        batch.weights([{"labels": torch.tensor([[n]])} for n in (1, 0)], [1, 1])


@pytest.mark.parametrize("shape", [(8, 2, 1, 4), (8, 2, 2, 2), (7, 2, 2, 2)])
def test_microbatches_of_a_step(shape: tuple[int, int, int, int]) -> None:
    total, microbatch, replicas, expected = shape
    batch = Batch(global_size=total, microbatch=microbatch, dynamic=True)
    assert made_plan(1, batch=batch, replicas=replicas).microbatches == expected


def test_a_batch_of_a_fixed_microbatch_is_padded_to_whole_ones() -> None:
    tensor = made_tensor("x")
    dynamic = made_plan(1, batch=Batch(global_size=7, microbatch=2, dynamic=True))
    fixed = made_plan(1, batch=Batch(global_size=7, microbatch=2, dynamic=False))
    assert dynamic.batch_bytes(tensor) == 7 * 16 and fixed.batch_bytes(tensor) == 8 * 16


def test_eval_mode_changes_what_stages_take_and_return() -> None:
    stages = [
        EvaluationStage(operators=3, receives=[], batch_inputs=["x"], sends=["y"]),
        EvaluationStage(operators=4, receives=["y"], batch_inputs=[], sends=[]),
    ]
    boundary = [made_tensor("y", needs_grad=False)]
    plan = made_plan(2, evaluation=Evaluation(dynamic=False, stages=stages, boundaries=[boundary]))
    evaluated = plan.in_evaluation()
    assert [stage.sends for stage in evaluated.stages] == [["y"], []]
    assert evaluated.boundaries[0].tensors == boundary and not evaluated.batch.dynamic
    # What a stage holds is the same in both modes.
    assert evaluated.stages[0].parameters == plan.stages[0].parameters
    assert made_plan(2).in_evaluation() == made_plan(2)


def test_a_plan_is_frozen_and_knows_no_other_keys() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        made_plan(1).schedule = "gpipe"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        made_stage(surprise=1)
    with pytest.raises(ValidationError, match="unknown dtype 'float31'"):
        made_tensor("x", dtype="float31")
