"""Tensors of a program become values; names that users and nodes have are not taken."""

import pytest
import torch

from pipecut.compiler.trace.lower.dimensions import Dimensions
from pipecut.compiler.trace.lower.names import Names
from pipecut.compiler.trace.lower.values import Values
from pipecut.errors import TraceError


def values() -> Values:
    return Values(Dimensions(2, dynamic=False), {"p_weight": "layer.weight"})


def test_a_value_has_the_tensors_sizes_strides_and_bytes() -> None:
    tensor = torch.zeros(3, 4, dtype=torch.bfloat16).t()
    value = values().add("x", tensor, needs_grad=True)
    assert (value.shape, value.sizes, value.strides) == ((4, 3), (4, 3), (1, 4))
    assert (value.dtype, value.bytes, value.needs_grad) == ("bfloat16", 24, True)


def test_views_have_one_storage() -> None:
    known, tensor = values(), torch.zeros(4)
    known.add("x", tensor, False)
    known.add("view", tensor[1:], False)
    known.add("copy", tensor.clone(), False)
    assert known.storage["x"] == known.storage["view"] != known.storage["copy"]


def test_a_sparse_parameter_is_refused_by_the_users_name() -> None:
    with pytest.raises(TraceError, match="'layer.weight' is a sparse_coo tensor.*to_dense"):
        values().add("p_weight", torch.eye(2).to_sparse(), False)


def test_a_value_may_come_to_need_a_gradient() -> None:
    known = values()
    before = known.add("x", torch.zeros(2), False)
    known.needs_grad_from_here("x")
    assert known.by_name["x"].needs_grad and not before.needs_grad


def test_a_free_name_is_neither_a_nodes_nor_a_values() -> None:
    names = Names({"batch_x", "add"})
    assert names.free("batch_x", {"batch_x_": None}) == "batch_x__"
    assert names.free("batch_y", {}) == "batch_y"


def test_a_name_may_stand_for_another_value() -> None:
    names = Names(())
    names.alias("p_head", "p_embed")
    assert names.value("p_head") == names.alias_of("p_head") == "p_embed"
    assert names.value("p_layer") == "p_layer" and names.alias_of("p_layer") is None
