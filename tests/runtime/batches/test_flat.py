"""Batches that are nested as the plan was compiled for come apart by its names; others do not."""

from typing import Any, NamedTuple

import pytest
import torch

from pipecut.errors import RunError
from pipecut.model.batch.nesting import take_apart
from pipecut.plan.schema import Batch, Plan
from pipecut.runtime.batches.flat import flat_batch
from pipecut.runtime.batches.microbatches import divided
from tests.plans import made_plan, made_tensor


class Pair(NamedTuple):
    """Two tensors, of which the second is a table."""

    x: torch.Tensor
    table: torch.Tensor


class Other(NamedTuple):
    """The same fields."""

    x: torch.Tensor
    table: torch.Tensor


def batch_of(samples: int) -> dict[str, Any]:
    x = torch.rand(samples, 4)
    return {
        "batch": {"pair": Pair(x, torch.ones(3)), "views": [x + 1, x + 2], "causal": True},
        "sizes": (2.5, None),
    }


def plan_of() -> Plan:
    apart = take_apart(batch_of(2), "m:inputs")
    inputs = [
        made_tensor(
            name,
            shape=[3] if "table" in name else ["batch", 4],
            whole="table" in name,
            needs_grad=False,
        )
        for name, leaf in apart.leaves.items()
        if isinstance(leaf, torch.Tensor)
    ]
    names = {tensor.name for tensor in inputs}
    constants = {name: leaf for name, leaf in apart.leaves.items() if name not in names}
    batch = Batch(global_size=8, microbatch=2, dynamic=True)
    return made_plan(
        1, inputs=inputs, constants=constants, nesting=dict(apart.nesting), batch=batch
    )


def test_a_nested_batch_comes_apart_by_the_plans_names() -> None:
    batch = batch_of(8)
    flat = flat_batch(plan_of(), batch, "rank 0")
    assert flat["batch.views.1"] is batch["batch"]["views"][1]
    assert flat["batch.pair.table"] is batch["batch"]["pair"].table
    assert flat["batch.causal"] is True and flat["sizes.0"] == 2.5
    # By the plan's names it may be given, too.
    assert flat_batch(plan_of(), flat, "rank 0").keys() == flat.keys()
    assert [part.sizes["batch"] for part in divided(plan_of(), flat)] == [2, 2, 2, 2]


@pytest.mark.parametrize("name", ["batch.causal", "sizes.0", "flag"])
def test_a_constant_may_not_be_left_out(name: str) -> None:
    plan, batch = plan_of(), batch_of(8)
    plan = plan.model_copy(update={"constants": {**plan.constants, "flag": True}})
    batch["flag"] = True
    divided(plan, flat_batch(plan, batch, "rank 0"))
    batch.pop(name.partition(".")[0]) if name != "batch.causal" else batch["batch"].pop("causal")
    with pytest.raises(RunError, match=f"misses '{name}', which is .* in the plan; give that"):
        divided(plan, flat_batch(plan, batch, "rank 0"))


def test_a_list_of_containers_has_one_for_each_microbatch() -> None:
    parts = [batch_of(2), batch_of(1)]
    listed = {"batch": [part["batch"] for part in parts], "sizes": (2.5, None)}
    first, second = divided(plan_of(), flat_batch(plan_of(), listed, "rank 0"))
    assert (first.sizes["batch"], second.sizes["batch"]) == (2, 1)
    assert second.tensors["batch.views.0"] is parts[1]["batch"]["views"][0]


def test_a_list_of_containers_may_have_one_for_each_sample() -> None:
    samples = [part["batch"] for part in (batch_of(1), batch_of(1), batch_of(1))]
    for sample in samples:
        sample["pair"] = Pair(sample["pair"].x[0], torch.ones(3))
        sample["views"] = [view[0] for view in sample["views"]]
    first, second = divided(
        plan_of(), flat_batch(plan_of(), {**batch_of(1), "batch": samples}, "rank 0")
    )
    assert (first.sizes["batch"], second.sizes["batch"]) == (2, 1)
    assert torch.equal(first.tensors["batch.views.1"][1], samples[1]["views"][1])


def changed(**changes: Any) -> dict[str, Any]:
    batch = batch_of(8)
    return {**batch, "batch": {**batch["batch"], **changes}}


X = torch.rand(8, 4)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (changed(views=(X, X)), "'batch.views' is a tuple, the plan was compiled for a list of 0"),
        (changed(views=[X, X, X]), "'batch.views' is a list of 3, the plan was compiled for 2"),
        (changed(views=X), "'batch.views' is a Tensor, the plan was compiled for a list"),
        (changed(views=[[X, X], [X, X]]), "'batch.views.0' is a list; list whole microbatches"),
        (changed(pair=Other(X, X)), "'batch.pair' is a .*:Other, the plan .* a .*:Pair of x, tab"),
        (changed(pair=Pair(X, torch.ones(3).numpy())), "'batch.pair.table' is a ndarray"),
        (changed(extra=X), "'batch' has 'extra', which the plan does not know; .* pair, views"),
        (changed(causal=1), "'batch.causal' is 1, the plan was compiled for True"),
        (changed(causal=None), "'batch.causal' is None, the plan was compiled for True"),
        ({**batch_of(8), "sizes": (-2.5, None)}, "'sizes.0' is -2.5, the plan was compiled for 2"),
        ({**batch_of(8), "sizes": (2.5, "a")}, "'sizes.1' is 'a', the plan was compiled for None"),
        ({**batch_of(8), "sizes": None}, "'sizes' is a NoneType, the plan was compiled for a tup"),
        ({**batch_of(8), "batch.causal": True}, "the batch has 'batch.causal' twice"),
        ({"batch": dict(reversed(batch_of(8)["batch"].items()))}, "in the order causal, views, p"),
        ({"batch": {"views": [X, X]}}, "misses batch.pair.x, batch.pair.table"),
        ({"batch": [changed()["batch"], changed(causal=0)["batch"]]}, "'batch.causal' is 0"),
        ({"batch": [changed()["batch"], {"views": [X, X]}]}, "is in some parts of the batch only"),
        ({"batch": []}, "'batch' is a list, the plan was compiled for a dict"),
        (changed(pair={"x": X}), "'batch.pair' is a dict, the plan was compiled for"),
    ],
)
def test_a_batch_that_is_nested_otherwise_is_refused_by_name(
    batch: dict[str, Any], message: str
) -> None:
    with pytest.raises(RunError, match=message):
        divided(plan_of(), flat_batch(plan_of(), batch, "rank 0"))


def test_a_container_in_place_of_a_tensor_is_refused() -> None:
    for value in ({"y": X}, Pair(X, X)):
        with pytest.raises(RunError, match="rank 0: input 'x' is a .*compile with inputs"):
            flat_batch(made_plan(1), {"x": value}, "rank 0")
    with pytest.raises(RunError, match="input 'x' is a str.*token"):
        flat_batch(made_plan(1), {"x": "words"}, "rank 0")
