"""The operator table is complete, and what is known of an operator stands nowhere else."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipecut.compiler.operators.lookup import (
    ATEN,
    may_draw_random,
    may_share_storage,
    resolve,
    rule_of,
    short_name,
)
from pipecut.compiler.operators.rule import Indices, OperatorRule, ViewWhen
from pipecut.compiler.operators.table import GETITEM, RULES
from pipecut.runtime.engine.weight_gradients import DEFERRED

ROOT = Path(__file__).parents[3]
TABLE = ROOT / "compiler" / "operators"


def strings(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    documentation = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in documentation:
                yield node.value


def test_no_operator_is_named_outside_the_table() -> None:
    named = [
        f"{path.relative_to(ROOT)}: {text}"
        for folder in ("compiler", "pipecut", "runtime")
        for path in (ROOT / folder).rglob("*.py")
        if TABLE not in path.parents
        for text in strings(path)
        if f"{ATEN}." in text or text == GETITEM
    ]
    assert not named, "give the operator a field in compiler/operators/table.py"


@pytest.mark.parametrize("name", sorted(RULES.keys() - {GETITEM}))
def test_an_entry_names_an_operator_of_torch(name: str) -> None:
    assert hasattr(torch.ops.aten, name)


def test_an_entry_says_something() -> None:
    assert [name for name, rule in RULES.items() if rule == OperatorRule()] == []


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("aten.linear.default", "linear"),
        ("aten.add_.Tensor", "add_"),
        ("getitem", "getitem"),
        ("mylib.linear.default", "linear"),
    ],
)
def test_a_targets_name_has_neither_library_nor_overload(target: str, name: str) -> None:
    assert short_name(target) == name


def test_an_overload_has_its_operators_rule() -> None:
    assert rule_of("aten.index_put_.default") is RULES["index_put_"]
    assert rule_of("aten.to.dtype_layout") is RULES["to"]
    assert rule_of("getitem") is RULES["getitem"]


@pytest.mark.parametrize("target", ["mylib.linear.default", "prims.view_of.default", "aten.sort"])
def test_an_operator_without_an_entry_has_the_default_rule(target: str) -> None:
    assert rule_of(target) == OperatorRule()


def test_a_target_is_resolved_to_torchs_function() -> None:
    assert resolve("aten.linear.default") is torch.ops.aten.linear.default


@pytest.mark.parametrize(
    ("target", "draws"),
    [
        ("aten.rand.default", True),
        ("aten.dropout.default", True),
        ("aten.linear.default", False),
        ("prims.view_of.default", False),
        ("getitem", False),
        # What an operator of another library does is not known.
        ("mylib.op.default", True),
    ],
)
def test_what_may_draw_is_asked_of_torch_where_it_is_torchs(target: str, draws: bool) -> None:
    assert may_draw_random(target) == draws


def test_weight_gradients_come_later_where_the_runtime_defers_them() -> None:
    later = {name for name, rule in RULES.items() if rule.weight_gradient_later}
    assert later == set(DEFERRED)


def test_what_drops_or_keeps_statistics_has_a_flag_for_training() -> None:
    for name, rule in RULES.items():
        if rule.drops or rule.statistics:
            flag = rule.training_flag
            assert flag is not None
            arguments = resolve(f"{ATEN}.{name}.default")._schema.arguments
            assert arguments[flag].name in ("train", "training", "use_input_stats")
            for position in rule.statistics:
                assert arguments[position].name.startswith("running_")


def test_the_arguments_of_a_loss_stand_where_the_table_says() -> None:
    arguments = torch.ops.aten.cross_entropy_loss.default._schema.arguments
    where = RULES["cross_entropy_loss"].loss
    assert where is not None
    assert arguments[where.weight].name == "weight"
    assert arguments[where.reduction].name == "reduction"
    assert arguments[where.reduction].default_value == where.mean
    assert arguments[where.ignore_index].name == "ignore_index"
    assert arguments[where.ignore_index].default_value == where.ignored


def _reshaped(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1)


@pytest.mark.parametrize(
    ("name", "moves", "stays"),
    [
        ("to", lambda x: x.to(torch.float64), lambda x: x.to(torch.float32)),
        ("type_as", lambda x: x.type_as(x.double()), lambda x: x.type_as(x)),
        ("contiguous", lambda x: x.t().contiguous(), lambda x: x.contiguous()),
        ("reshape", lambda x: x.t().reshape(-1), _reshaped),
        ("flatten", lambda x: x.t().flatten(), torch.flatten),
        (
            "dropout",
            lambda x: torch.dropout(x, 0.5, True),
            lambda x: torch.dropout(x, 0.5, False),
        ),
    ],
)
def test_an_operator_is_a_view_only_at_times(name, moves, stays) -> None:  # type: ignore[no-untyped-def]
    x = torch.ones(3, 4)
    assert RULES[name].view_when is not ViewWhen.ALWAYS
    assert moves(x).untyped_storage().data_ptr() != x.untyped_storage().data_ptr()
    assert stays(x).untyped_storage().data_ptr() == x.untyped_storage().data_ptr()


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.same_values])
def test_what_has_the_same_values_aliases_its_input(name: str) -> None:
    rule = RULES[name]
    overload = getattr(torch.ops.aten, name).overloads()[0]
    schema = getattr(getattr(torch.ops.aten, name), overload)._schema
    # _unsafe_view hides from autograd that it is a view.
    assert rule.may_alias or schema.arguments[0].alias_info or name == "_unsafe_view"


@pytest.mark.parametrize(
    ("name", "indices"),
    [
        ("embedding", Indices.ROWS),
        ("cross_entropy_loss", Indices.CLASSES),
        ("add", Indices.ANY_DIMENSION),
    ],
)
def test_indices_stay_below_the_size_they_choose_among(name: str, indices: Indices) -> None:
    assert RULES[name].indices is indices


@pytest.mark.parametrize(
    ("target", "shares"),
    [
        ("aten.view.default", True),
        ("aten.to.dtype", True),
        (GETITEM, True),
        ("aten.linear.default", False),
        # It writes to its input, which is no view of another.
        ("aten.add_.Tensor", False),
        ("mine.view.default", False),
    ],
)
def test_what_may_share_its_inputs_storage(target: str, shares: bool) -> None:
    assert may_share_storage(target) == shares
