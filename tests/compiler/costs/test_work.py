"""FLOPs and kept tensors of single calls, compared with numbers by hand."""

import pytest
import torch

from pipecut.compiler.costs.arguments import concrete, size_of
from pipecut.compiler.costs.work import NOTHING, Work, identity, measure_all
from pipecut.compiler.graph import Literal, Operator, Ref, Sym, Value
from tests.compiler.graphs import graph, operator, value

X = value("x", "batch", 4, needs_grad=True)
W = value("w", 3, 4, needs_grad=True)
B = value("b", 3, needs_grad=True)
Y = value("y", "batch", 3, needs_grad=True)


def work(call: Operator, *values: Value, device_type: str = "cpu") -> Work:
    (only,) = measure_all(graph([call], values), 2, device_type)
    return only


def test_a_linear_keeps_its_inputs_and_has_two_products_backward() -> None:
    linear = operator("y", "aten.linear.default", Ref("x"), Ref("w"), Ref("b"))
    product = 2 * 2 * 4 * 3
    assert work(linear, X, W, B, Y) == Work(product, 2 * product, (0, 1), False, 0)


def test_a_linear_of_a_batch_has_one_product_backward_and_keeps_the_batch_only() -> None:
    linear = operator("y", "aten.linear.default", Ref("x"), Ref("w"))
    assert work(linear, value("x", "batch", 4), W, Y) == Work(48, 48, (0,), False, 0)


def test_tanh_keeps_its_result() -> None:
    assert work(operator("y", "aten.tanh.default", Ref("x")), X) == Work(0, 0, (), True, 0)


def test_a_sum_keeps_nothing() -> None:
    assert work(operator("y", "aten.sum.default", Ref("x")), X) == Work(0, 0, (), False, 0)


def test_layer_norm_keeps_two_numbers_per_row_of_its_own() -> None:
    norm = operator("y", "aten.layer_norm.default", Ref("x"), (4,), Ref("g"), Ref("g"))
    # Mean and reciprocal deviation of two rows, in float32.
    assert work(norm, X, value("g", 4, needs_grad=True)).saved_own_bytes == 2 * 2 * 4


def test_no_gradients_under_no_grad() -> None:
    linear = operator(
        "y",
        "aten.linear.default",
        Ref("x"),
        Ref("w"),
        contexts=("torch.set_grad_enabled(False)",),
    )
    assert work(linear, X, W) == Work(48, 0, (), False, 0)


def test_a_write_to_what_needs_a_gradient_is_counted_without_one() -> None:
    add = operator("y", "aten.add_.Tensor", Ref("x"), 1, writes=("x",))
    assert work(add, X) == NOTHING


@pytest.mark.parametrize(
    "call",
    [
        operator("part", "getitem", Ref("x"), 0),
        operator("y", "aten.tanh.default", Ref("several tensors")),
    ],
)
def test_what_cannot_run_by_itself_is_nothing(call: Operator) -> None:
    assert work(call, X) == NOTHING


def test_sizes_that_follow_the_batch_are_those_of_the_microbatch() -> None:
    product = operator("y", "aten.matmul.default", Ref("x"), Ref("m"))
    fill = operator(
        "z", "aten.zeros.default", (Sym("2*batch"), 4), kwargs={"device": Literal("device")}
    )
    both = measure_all(graph([product, fill], (X, value("m", 4, 5))), 2, "cpu")
    assert [w.forward_flops for w in both] == [2 * 2 * 4 * 5, 0]


QUERY = value("q", "batch", 2, 8, 16, needs_grad=True, dtype="bfloat16")
# One product of queries and keys: 2 FLOPs for each of batch x heads x rows x rows x width.
PRODUCT = 2.0 * 2 * 2 * 8 * 8 * 16


def attention(*args: object) -> Operator:
    target = "aten.scaled_dot_product_attention.default"
    return operator("y", target, Ref("q"), Ref("q"), Ref("q"), *args)


def test_flash_attention_recomputes_the_scores_in_backward() -> None:
    flash = work(attention(None, 0.0, True), QUERY, device_type="cuda")
    assert (flash.forward_flops, flash.backward_flops) == (2 * PRODUCT, 5 * PRODUCT)
    assert (flash.forward_inner, flash.backward_inner) == (0.0, 0.0)


def test_attention_by_plain_operators_moves_scores_in_between() -> None:
    plain = work(attention(None, 0.5), QUERY, device_type="cpu")
    assert (plain.forward_flops, plain.backward_flops) == (2 * PRODUCT, 4 * PRODUCT)
    scores = 2 * 2 * 8 * 8 * 2
    assert plain.forward_inner > 2 * scores and plain.backward_inner > 2 * scores


def test_attention_without_a_gradient_has_no_backward() -> None:
    query = value("q", "batch", 2, 8, 16, dtype="bfloat16")
    assert work(attention(), query).backward_flops == 0


def test_each_row_of_experts_meets_one_matrix() -> None:
    experts = operator("y", "aten._grouped_mm.default", Ref("rows"), Ref("matrices"), Ref("ends"))
    values = (
        value("rows", 6, 4, needs_grad=True),
        value("matrices", 3, 4, 5, needs_grad=True),
        value("ends", 3, dtype="int32"),
    )
    product = 2 * 6 * 4 * 5
    assert work(experts, *values) == Work(product, 2 * product, (0, 1, 2), False, 0)


def test_equal_calls_of_other_tensors_cost_the_same() -> None:
    first = operator("y", "aten.mul.Tensor", Ref("x"), Ref("u"))
    second = operator("z", "aten.mul.Tensor", Ref("u"), Ref("x"))
    square = operator("s", "aten.mul.Tensor", Ref("x"), Ref("x"))
    whole = graph([first, second, square], (X, value("u", "batch", 4, needs_grad=True)))
    assert identity(first, whole) == identity(second, whole) != identity(square, whole)


@pytest.mark.parametrize(
    "other",
    [
        value("x", "batch", 5, needs_grad=True),
        value("x", "batch", 4),
        value("x", "batch", 4, dtype="bfloat16", needs_grad=True),
        value("x", "batch", 4, strides=(1, 2), needs_grad=True),
    ],
)
def test_calls_differ_by_sizes_strides_dtypes_and_gradients(other: Value) -> None:
    call = operator("y", "aten.tanh.default", Ref("x"))
    assert identity(call, graph([call], (X,))) != identity(call, graph([call], (other,)))


@pytest.mark.parametrize(
    ("expression", "size"), [("8*batch", 24), ("min(4, batch)", 3), ("batch//2 + 1", 2)]
)
def test_a_size_is_computed_for_the_microbatch(expression: str, size: int) -> None:
    assert size_of(expression, {"batch": 3}) == size


def test_arguments_become_torchs() -> None:
    x = torch.ones(2)
    given = (Ref("x"), Sym("batch"), Literal("torch.bfloat16"), Literal("device"), 1.5, None)
    device = torch.device("meta")
    expected = [x, 7, torch.bfloat16, device, 1.5, None]
    assert concrete(given, {"x": x}, {"batch": 7}, device) == expected
