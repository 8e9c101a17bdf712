"""A global batch is checked against the plan's inputs, and split along its samples."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipecut.errors import RunError
from pipecut.plan.schema import Plan
from pipecut.runtime.batches.microbatches import (
    checked_batch,
    count_microbatches,
    microbatches,
    samples_in,
    split,
)
from tests.plans import made_plan, made_tensor


def plan_of(**fields: Any) -> Plan:
    """Takes samples, a table that every microbatch has whole, and a constant; microbatches of 2."""
    inputs = [
        made_tensor("x", needs_grad=False),
        made_tensor("table", shape=[3, 3], whole=True, needs_grad=False),
    ]
    return made_plan(1, **{"inputs": inputs, "constants": {"power": 2, "causal": True}, **fields})


def batch_of(count: int) -> dict[str, Any]:
    return {"x": torch.rand(count, 4), "table": torch.rand(3, 3)}


@given(st.integers(1, 13))
def test_every_sample_is_in_one_microbatch_in_order(count: int) -> None:
    plan, batch = plan_of(), batch_of(count)
    parts = split(plan, "x", batch["x"], count)
    assert torch.equal(torch.cat(parts), batch["x"])
    assert len(parts) == count_microbatches(plan, count)
    assert all(len(part) == 2 for part in parts[:-1]) and len(parts[-1]) in (1, 2)


def test_an_input_without_samples_is_the_same_in_every_microbatch() -> None:
    table = torch.rand(3, 3)
    assert all(part is table for part in split(plan_of(), "table", table, 8))


def test_microbatches_have_their_own_tensors_and_the_constants() -> None:
    batch = batch_of(4)
    before = {name: tensor.clone() for name, tensor in batch.items()}
    for part in microbatches(plan_of(), batch):
        assert part["power"] == 2 and part["causal"] is True
        part["x"].zero_()
        part["table"].zero_()
    assert all(torch.equal(batch[name], tensor) for name, tensor in before.items())


def test_half_precision_plans_take_full_precision_batches() -> None:
    model = plan_of().model.model_copy(update={"precision": "bf16"})
    inputs = [made_tensor("x", dtype="bfloat16", needs_grad=False)]
    tensors, count = checked_batch(plan_of(model=model, inputs=inputs), {"x": torch.rand(8, 4)})
    assert tensors["x"].dtype == torch.bfloat16 and count == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": None}, "misses x; the plan was compiled for x, table"),
        ({"more": torch.ones(1)}, "has more, which the plan does not know"),
        ({"power": 3}, "input 'power' is 3, the plan was compiled for 2; compile it for that"),
        ({"causal": 1}, "input 'causal' is 1, the plan was compiled for True"),
        (
            {"x": torch.zeros(8, 5)},
            r"input 'x' is torch.float32\[8, 5\], .*\[8, 4\] for a batch of 8",
        ),
        ({"x": torch.zeros(8, 4, dtype=torch.float64)}, r"'x' is torch.float64\[8, 4\]"),
        ({"table": torch.zeros(8, 3)}, r"'table' is .*\[8, 3\], the plan takes .*\[3, 3\]"),
    ],
)
def test_a_batch_that_departs_from_the_plan_is_refused_by_name(
    change: dict[str, Any], message: str
) -> None:
    batch = {**batch_of(8), **change}
    batch = {name: value for name, value in batch.items() if value is not None}
    with pytest.raises(RunError, match=message):
        checked_batch(plan_of(), batch)


def test_constants_may_be_left_out_or_repeated() -> None:
    for constants in ({}, {"power": 2}, {"power": 2, "causal": True}):
        assert checked_batch(plan_of(), {**batch_of(8), **constants})[1] == 8


def test_tensors_that_disagree_on_the_samples_are_named() -> None:
    inputs = [made_tensor(name, needs_grad=False) for name in ("x", "y")]
    plan = made_plan(1, inputs=inputs)
    assert samples_in(plan, {"x": torch.zeros(6, 4)}) == 6 and samples_in(plan, {}) == 0
    for y, count in ((torch.zeros(8, 4), 8), (torch.tensor(1.0), 0)):
        with pytest.raises(RunError, match=f"number of samples.*: 6 in x; {count} in y"):
            samples_in(plan, {"x": torch.zeros(6, 4), "y": y})
