"""A global batch is checked against the plan's inputs, and split along its samples."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipecut.errors import RunError
from pipecut.plan.schema import Batch, LengthRange, Plan
from pipecut.runtime.batches.grouping import count_microbatches, samples_per_microbatch
from pipecut.runtime.batches.microbatches import (
    checked_batch,
    divided,
    microbatches,
    samples_in,
    split,
)
from tests.plans import made_plan, made_tensor

CONSTANTS = {"power": 2, "causal": True}


def plan_of(**fields: Any) -> Plan:
    """Takes samples, a table that every microbatch has whole, and a constant; microbatches of 2."""
    inputs = [
        made_tensor("x", needs_grad=False),
        made_tensor("table", shape=[3, 3], whole=True, needs_grad=False),
    ]
    return made_plan(1, **{"inputs": inputs, "constants": CONSTANTS, **fields})


def batch_of(count: int) -> dict[str, Any]:
    return {"x": torch.rand(count, 4), "table": torch.rand(3, 3), **CONSTANTS}


@given(st.integers(1, 13))
def test_every_sample_is_in_one_microbatch_in_order(count: int) -> None:
    plan, batch = plan_of(), batch_of(count)
    parts = split(plan, "x", batch["x"], samples_per_microbatch(plan, count))
    assert torch.equal(torch.cat(parts), batch["x"])
    assert len(parts) == count_microbatches(plan, count)
    assert all(len(part) == 2 for part in parts[:-1]) and len(parts[-1]) in (1, 2)


def test_an_input_without_samples_is_the_same_in_every_microbatch() -> None:
    table = torch.rand(3, 3)
    assert all(part is table for part in split(plan_of(), "table", table, [2] * 4))


def test_microbatches_have_their_own_tensors_and_the_constants() -> None:
    batch = batch_of(4)
    before = {name: batch[name].clone() for name in ("x", "table")}
    for part in microbatches(plan_of(), batch):
        assert part["power"] == 2 and part["causal"] is True
        part["x"].zero_()
        part["table"].zero_()
    assert all(torch.equal(batch[name], tensor) for name, tensor in before.items())


def test_half_precision_plans_take_full_precision_batches() -> None:
    model = plan_of().model.model_copy(update={"precision": "bf16"})
    inputs = [made_tensor("x", dtype="bfloat16", needs_grad=False)]
    plan = plan_of(model=model, inputs=inputs)
    tensors, count = checked_batch(plan, {"x": torch.rand(8, 4), **CONSTANTS})
    assert tensors["x"].dtype == torch.bfloat16 and count == {"batch": 8}


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


def test_constants_may_not_be_left_out() -> None:
    assert checked_batch(plan_of(), batch_of(8))[1] == {"batch": 8}
    for name, message in {"power": "is 2 .*as power=2", "causal": "is True .*as caus"}.items():
        batch = {key: value for key, value in batch_of(8).items() if key != name}
        with pytest.raises(RunError, match=f"misses '{name}', which {message}"):
            checked_batch(plan_of(), batch)


def test_tensors_that_disagree_on_the_samples_are_named() -> None:
    inputs = [made_tensor(name, needs_grad=False) for name in ("x", "y")]
    plan = made_plan(1, inputs=inputs)
    assert samples_in(plan, {"x": torch.zeros(6, 4)}) == 6 and samples_in(plan, {}) == 0
    for y, count in ((torch.zeros(8, 4), 8), (torch.tensor(1.0), 0)):
        with pytest.raises(RunError, match=f"number of samples.*: 6 in x; {count} in y"):
            samples_in(plan, {"x": torch.zeros(6, 4), "y": y})


def ragged_plan(**fields: Any) -> Plan:
    """Takes samples of a length and a mask that follows it; microbatches of 2 samples."""
    inputs = [
        made_tensor("x", shape=["batch", "length", 4], needs_grad=False),
        made_tensor("mask", shape=["length", "length"], whole=True, needs_grad=False),
    ]
    lengths = {"length": LengthRange(shortest=2, longest=9)}
    batch = Batch(global_size=8, microbatch=2, dynamic=True, lengths=lengths)
    return made_plan(1, **{"inputs": inputs, "batch": batch, **fields})


def ragged_batch(*sizes: tuple[int, int]) -> dict[str, Any]:
    """A list of microbatches of so many samples and that length."""
    return {
        "x": [torch.rand(samples, length, 4) for samples, length in sizes],
        "mask": [torch.rand(length, length) for _, length in sizes],
    }


def test_all_microbatches_of_a_batch_have_its_length() -> None:
    batch = {"x": torch.rand(3, 5, 4), "mask": torch.rand(5, 5)}
    first, last = divided(ragged_plan(), batch)
    assert (first.sizes, last.sizes) == ({"batch": 2, "length": 5}, {"batch": 1, "length": 5})
    assert torch.equal(last.tensors["x"], batch["x"][2:])
    assert first.tensors["mask"] is batch["mask"]


def test_each_microbatch_of_a_list_has_its_own_length() -> None:
    batch = ragged_batch((2, 9), (1, 2), (2, 4))
    parts = divided(ragged_plan(), batch)
    assert [part.sizes["length"] for part in parts] == [9, 2, 4]
    assert [part.sizes["batch"] for part in parts] == [2, 1, 2]
    assert all(part.tensors["x"] is x for part, x in zip(parts, batch["x"], strict=True))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (ragged_batch((2, 10)), "microbatch 0: a length of 10 is more than the 9 .*length=10 as"),
        (ragged_batch((2, 3), (2, 1)), "microbatch 1: a length of 1 is less than the 2.*pad it"),
        (ragged_batch((3, 3)), "it has 3 samples; the plan's have up to 2"),
        (ragged_batch((0, 3)), "it has 0 samples"),
        (
            {"x": [torch.rand(2, 3, 4)], "mask": []},
            "different numbers of tensors: 1 of x, 0 of mask",
        ),
        ({"x": torch.rand(2, 3, 4), "mask": [torch.rand(3, 3)]}, "'x' is one tensor beside lists"),
        ({"x": torch.rand(2, 3, 4), "mask": torch.rand(4, 4)}, "on the length: 3 in x; 4 in mask"),
        ({"x": torch.rand(2, 3, 5), "mask": torch.rand(3, 3)}, r"\[2, 3, 4\] for .*2, length 3"),
    ],
)
def test_lengths_that_the_plan_does_not_take_are_refused(
    batch: dict[str, Any], message: str
) -> None:
    with pytest.raises(RunError, match=message):
        divided(ragged_plan(), batch)


def test_a_plan_of_one_length_refuses_another() -> None:
    with pytest.raises(RunError, match=r"microbatch 1: input 'x' is .*\[2, 5\], the plan takes"):
        table = torch.rand(3, 3)
        x = [torch.rand(2, 4), torch.rand(2, 5)]
        divided(plan_of(), {"x": x, "table": table, **CONSTANTS})


def test_a_microbatch_of_fewer_samples_than_the_graph_holds_for_is_refused() -> None:
    batch = Batch(global_size=8, microbatch=2, dynamic=True, least_samples=2)
    plan = made_plan(1, batch=batch, notes=["a microbatch needs two: x.py:3", "costs"])
    x = torch.rand(7, 4)
    assert len(divided(plan, {"x": x[:6]})) == 3
    for batch_of_x in (x, [x[:2], x[2:3]]):
        with pytest.raises(RunError, match=r"has 1 sample, .* 2 or more .*x.py:3.*drop_last"):
            divided(plan, {"x": batch_of_x})
