"""An operator's readable form means what the operator does."""

import sys

import pytest
import torch
import torch.nn.functional as F

from pipecut.compiler.graph import Literal, Operator, Ref, Sym
from pipecut.compiler.operators.forms import operand
from pipecut.compiler.operators.lookup import resolve
from pipecut.compiler.stages.call import write_call

TENSORS = {
    "x": torch.rand(2, 4),
    "y": torch.rand(2, 4),
    "w": torch.rand(3, 4),
    "b": torch.rand(3),
    "m": torch.rand(4, 4),
    "image": torch.rand(2, 4, 6, 6),
    "kernel": torch.rand(4, 4, 3, 3),
    "four": torch.rand(4),
    "mean": torch.rand(4),
    "variance": torch.rand(4),
    "labels": torch.tensor([1, -100]),
    "rows": torch.tensor([2, 0]),
    "query": torch.rand(2, 2, 3, 4),
    "flags": torch.rand(2, 4) > 0.5,
}
X, Y, W, B = (Ref(name) for name in "xywb")
FOUR = Ref("four")
HEADS = (Ref("query"),) * 3

# Operator, arguments, keyword arguments, code.
CALLS: list[tuple[str, tuple[object, ...], dict[str, object], str]] = [
    ("linear.default", (X, W, B), {}, "F.linear(x, w, b)"),
    ("add.Tensor", (X, Y), {}, "x + y"),
    ("add.Tensor", (X, Y), {"alpha": 2}, "torch.ops.aten.add.Tensor(x, y, alpha=2)"),
    ("sub.Tensor", (X, Y), {}, "x - y"),
    ("mul.Tensor", (X, 2.5), {}, "x * 2.5"),
    ("div.Tensor", (X, -1), {}, "x / (-1)"),
    ("matmul.default", (X, Ref("m")), {}, "x @ m"),
    ("ge.Scalar", (X, 0.5), {}, "x >= 0.5"),
    ("bitwise_and.Tensor", (Ref("flags"), Ref("flags")), {}, "flags & flags"),
    ("view.default", (X, (4, 2)), {}, "x.view([4, 2])"),
    (
        "masked_fill.Scalar",
        (X, Ref("flags"), float("-inf")),
        {},
        'x.masked_fill(flags, float("-inf"))',
    ),
    ("tanh.default", (X,), {}, "torch.tanh(x)"),
    ("addmm.default", (FOUR, X, Ref("m")), {}, "torch.addmm(four, x, m)"),
    ("cat.default", ((X, Y), 1), {}, "torch.cat([x, y], 1)"),
    ("pow.Tensor_Scalar", (X, 2), {}, "torch.pow(x, 2)"),
    ("gelu.default", (X,), {"approximate": "tanh"}, "F.gelu(x, approximate='tanh')"),
    (
        "conv2d.default",
        (Ref("image"), Ref("kernel"), FOUR, (1, 1), (1, 1)),
        {},
        "F.conv2d(image, kernel, four, [1, 1], [1, 1])",
    ),
    ("dropout.default", (X, 0.5, False), {}, "F.dropout(x, 0.5, False)"),
    ("dropout_.default", (X, 0.5, False), {}, "F.dropout(x, 0.5, False, True)"),
    (
        "batch_norm.default",
        (Ref("image"), FOUR, None, Ref("mean"), Ref("variance"), False, 0.1, 1e-5, True),
        {},
        "F.batch_norm(image, mean, variance, four, None, False, 0.1, 1e-05)",
    ),
    (
        "layer_norm.default",
        (X, (4,), FOUR, FOUR, 1e-5),
        {},
        "F.layer_norm(x, [4], four, four, 1e-05)",
    ),
    ("layer_norm.default", (X, (4,)), {}, "torch.ops.aten.layer_norm.default(x, [4])"),
    ("group_norm.default", (X, 2, FOUR, FOUR, 1e-5), {}, "F.group_norm(x, 2, four, four, 1e-05)"),
    ("embedding.default", (W, Ref("rows")), {}, "F.embedding(rows, w)"),
    ("embedding.default", (W, Ref("rows"), 0), {}, "F.embedding(rows, w, padding_idx=0)"),
    ("embedding.default", (W, Ref("rows"), -1), {}, "F.embedding(rows, w)"),
    ("cross_entropy_loss.default", (X, Ref("labels")), {}, "F.cross_entropy(x, labels)"),
    (
        "cross_entropy_loss.default",
        (X, Ref("rows"), None, 2, 0, 0.1),
        {},
        'F.cross_entropy(x, rows, ignore_index=0, reduction="sum", label_smoothing=0.1)',
    ),
    (
        "cross_entropy_loss.default",
        (X, Ref("labels"), FOUR),
        {},
        "torch.ops.aten.cross_entropy_loss.default(x, labels, four)",
    ),
    (
        "scaled_dot_product_attention.default",
        (*HEADS, None, 0.0, True),
        {"scale": 0.5},
        "F.scaled_dot_product_attention(query, query, query, is_causal=True, scale=0.5)",
    ),
    ("sum.default", (X,), {}, "x.sum()"),
    ("sum.dim_IntList", (X, (0,), True), {}, "x.sum([0], True)"),
    ("mean.dim", (X, (-1,)), {}, "x.mean([-1])"),
    ("prod.default", (X,), {}, "torch.ops.aten.prod.default(x)"),
    ("to.dtype", (X, Literal("torch.float64")), {}, "x.to(torch.float64)"),
    ("slice.Tensor", (X, 1, 0, 1), {}, "x[:, :1]"),
    ("slice.Tensor", (X, 0, 1, sys.maxsize), {}, "x[1:]"),
    ("slice.Tensor", (X, 0, -1), {}, "x[-1:]"),
    ("slice.Tensor", (X, 1), {}, "torch.ops.aten.slice.Tensor(x, 1)"),
    (
        "full_like.default",
        (X, 1),
        {"dtype": Literal("torch.float64")},
        "torch.ops.aten.full_like.default(x, 1, dtype=torch.float64)",
    ),
]


def call(
    name: str, args: tuple[object, ...], kwargs: dict[str, object], **more: object
) -> Operator:
    return Operator(
        name="result",
        target=f"aten.{name}",
        args=args,
        kwargs=tuple(kwargs.items()),
        inputs=(),
        module="",
        module_class="",
        source="",
        **more,  # type: ignore[arg-type]
    )


def concrete(argument: object) -> object:
    if isinstance(argument, Ref):
        return TENSORS[argument.name].clone()
    if isinstance(argument, Literal):
        return getattr(torch, argument.code.removeprefix("torch."))
    return [concrete(item) for item in argument] if isinstance(argument, tuple) else argument


@pytest.mark.parametrize(("name", "args", "kwargs", "code"), CALLS)
def test_a_form_is_readable_and_computes_the_same(
    name: str, args: tuple[object, ...], kwargs: dict[str, object], code: str
) -> None:
    written = write_call(call(name, args, kwargs), lambda value: value)
    assert written == code
    tensors = {key: tensor.clone() for key, tensor in TENSORS.items()}
    result = eval(written, {"torch": torch, "F": F, "float": float}, tensors)
    expected = resolve(f"aten.{name}")(
        *map(concrete, args), **{key: concrete(value) for key, value in kwargs.items()}
    )
    assert torch.equal(result, expected)


def test_a_flag_that_differs_in_eval_mode_follows_the_module() -> None:
    dropout = call("dropout.default", (X, 0.5, True), {}, modes=((2, False),))
    assert write_call(dropout, str) == "F.dropout(x, 0.5, self.training)"


def test_a_number_that_differs_in_eval_mode_is_chosen_by_it() -> None:
    attention = call(
        "scaled_dot_product_attention.default", (*HEADS, None, 0.1), {}, modes=((4, 0.0),)
    )
    assert write_call(attention, str) == (
        "F.scaled_dot_product_attention(query, query, query, "
        "dropout_p=0.1 if self.training else 0.0)"
    )


def test_a_part_of_a_result_is_written_as_an_index() -> None:
    part = Operator("part", "getitem", (Ref("pair"), 1), (), ("pair",), "", "", "")
    assert write_call(part, str) == "pair[1]"


def test_another_librarys_operator_keeps_its_own_name() -> None:
    own = Operator("r", "mylib.linear.default", (X, W), (), ("x", "w"), "", "", "")
    assert write_call(own, str) == "torch.ops.mylib.linear.default(x, w)"


def test_a_size_is_divided_by_as_a_whole() -> None:
    divided = call("div.Tensor", (X, Sym("8*batch")), {})
    assert write_call(divided, str) == "x / (8*batch)"


@pytest.mark.parametrize(
    ("code", "written"),
    [
        ("x", "x"),
        ("2.5", "2.5"),
        ("x.shape[0]", "x.shape[0]"),
        ("min(4, n)", "min(4, n)"),
        ("-1", "(-1)"),
        ("8*n", "(8*n)"),
        ("n**2", "(n**2)"),
        ("n//2", "(n//2)"),
        ("a + b", "(a + b)"),
    ],
)
def test_an_operand_binds_no_less_than_its_operator(code: str, written: str) -> None:
    assert operand(code) == written
