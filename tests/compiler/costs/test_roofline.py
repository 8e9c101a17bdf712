"""Seconds by the roofline and bytes kept for backward, compared with numbers by hand."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipecut.compiler.costs.roofline import CostedGraph, OperatorCost, cost
from pipecut.compiler.graph import Graph, Operator, Ref, Value
from pipecut.compiler.inputs.cluster import Cluster, Device
from pipecut.compiler.inputs.cluster_file import read_cluster
from pipecut.errors import UserFileError
from tests.compiler.graphs import graph, operator, value

# 100 FLOP/s, 1000 bytes/s and one second for each launch.
DEVICE = Device(
    "slow", 0, "cpu", 2**30, bandwidth=1000.0, flops=(("fp32", 100.0),), overhead=1.0, efficiency=1
)

X, W = value("x", "batch", 4), value("w", 3, 4, needs_grad=True)
H = value("h", "batch", 3, needs_grad=True)
LINEAR = operator("h", "aten.linear.default", Ref("x"), Ref("w"))
# 2 x 4 x 3 products and sums; reads x (32 bytes) and w (48), writes h (24).
FLOPS, BYTES = 2 * 2 * 4 * 3, 32 + 48 + 24


def cluster(*devices: Device) -> Cluster:
    return Cluster("by hand", devices, (), None, 0)


def costed(graph: Graph, device: Device = DEVICE, precision: str = "fp32") -> CostedGraph:
    return cost(graph, cluster(device), precision, microbatch=2)


def cost_of(call: Operator, *values: Value, device: Device = DEVICE) -> OperatorCost:
    """The cost of a call of x, w and h, and of further values."""
    return costed(graph([call], (X, W, H, *values), ("w",), ("x",)), device).costs[0]


def test_a_product_takes_its_flops_over_the_rate() -> None:
    product = cost_of(LINEAR)
    assert product.forward == {"slow": 1 + FLOPS / 100}
    # The batch needs no gradient, so backward has one product: the weight's.
    assert product.backward == {"slow": 1 + FLOPS / 100}


def test_slow_memory_takes_bytes_over_the_bandwidth() -> None:
    product = cost_of(LINEAR, device=replace(DEVICE, bandwidth=10.0))
    assert product.forward == {"slow": 1 + BYTES / 10}
    # Backward reads what forward read and the result's gradient, and writes the inputs'.
    assert product.backward == {"slow": 1 + 2 * BYTES / 10}


def test_a_good_kernel_reaches_a_share_of_the_peak_rate() -> None:
    product = cost_of(LINEAR, device=replace(DEVICE, efficiency=0.5))
    assert product.forward == {"slow": 1 + FLOPS / 50}


def test_each_precision_has_a_rate() -> None:
    device = replace(DEVICE, flops=(("fp32", 100.0), ("bf16", 200.0)))
    one_product = graph([LINEAR], (X, W, H), ("w",), ("x",))
    assert costed(one_product, device, "bf16").costs[0].forward == {"slow": 1 + FLOPS / 200}


def test_each_kind_of_device_has_seconds() -> None:
    fast = replace(DEVICE, kind="fast", flops=(("fp32", 1000.0),), bandwidth=1e6)
    both = cost(graph([LINEAR], (X, W, H)), cluster(DEVICE, fast), "fp32", 2)
    assert both.costs[0].forward == {"slow": 1 + FLOPS / 100, "fast": 1 + FLOPS / 1000}
    assert both.seconds(0, "fast") == pytest.approx(2 * (1 + FLOPS / 1000))


@pytest.mark.parametrize(
    ("fractions", "forward", "backward"),
    [
        ({"linear": (0.5, 0.25)}, 0.5, 0.25),
        ({"other": (0.5, 0.25)}, 1.0, 1.0),
        ({"linear": (0.5, 0.25), "other": (0.1, 0.1)}, 0.5, 0.25),
    ],
)
def test_a_product_achieves_its_fraction(
    fractions: dict[str, tuple[float, float]], forward: float, backward: float
) -> None:
    product = cost_of(LINEAR, device=replace(DEVICE, operators=tuple(fractions.items())))
    assert product.forward["slow"] == pytest.approx((1 + FLOPS / 100) / forward)
    assert product.backward["slow"] == pytest.approx((1 + FLOPS / 100) / backward)


@pytest.mark.parametrize(("name", "fraction"), [("tanh", 0.25), ("other", 0.5)])
def test_an_operator_without_flops_achieves_its_own_fraction_or_that_of_others(
    name: str, fraction: float
) -> None:
    tanh = operator("y", "aten.tanh.default", Ref("h"))
    device = replace(DEVICE, operators=((name, (fraction, 1.0)), ("linear", (0.1, 0.1))))
    result = value("y", "batch", 3, needs_grad=True)
    # It reads and writes 24 bytes.
    assert cost_of(tanh, result, device=device).forward["slow"] == (1 + 48 / 1000) / fraction


def test_what_was_measured_is_taken_instead() -> None:
    measured = {"slow": [(3.0, 4.0)], "a kind the cluster lacks": [(5.0, 6.0)]}
    product = cost(graph([LINEAR], (X, W, H)), cluster(DEVICE), "fp32", 2, measured).costs[0]
    assert (product.forward, product.backward) == ({"slow": 3.0}, {"slow": 4.0})


def test_what_needs_no_gradient_has_no_backward() -> None:
    assert cost_of(
        operator("y", "aten.tanh.default", Ref("x")), value("y", "batch", 4)
    ).backward == {"slow": 0.0}


def test_a_view_takes_no_time_and_has_its_inputs_storage() -> None:
    flat = operator("flat", "aten.view.default", Ref("h"), (-1,), aliases=("h",))
    views = costed(graph([LINEAR, flat], (X, W, H, value("flat", "3*batch", needs_grad=True))))
    assert views.costs[1].forward == views.costs[1].backward == {"slow": 0.0}
    assert views.storage["flat"] == "h"


def test_a_write_through_a_view_takes_time() -> None:
    add = operator("sum", "aten.add_.Tensor", Ref("x"), 1, aliases=("x",), writes=("x",))
    assert cost_of(add, value("sum", "batch", 4)).forward == {"slow": 1 + (32 + 32) / 1000}


def test_a_part_of_a_result_takes_no_time() -> None:
    part = operator("part", "getitem", Ref("pair"), 1)
    assert cost_of(part, value("part", "batch", 4)).forward == {"slow": 0.0}


def test_an_embedding_reads_the_rows_it_returns_not_the_table() -> None:
    lookup = operator("rows", "aten.embedding.default", Ref("table"), Ref("tokens"))
    values = (
        value("table", 1000, 4, needs_grad=True),
        value("tokens", "batch", dtype="int64"),
        value("rows", "batch", 4, needs_grad=True),
    )
    rows = cost_of(lookup, *values)
    assert rows.forward == {"slow": 1 + 2 * 32 / 1000}
    # Backward writes a gradient of the whole table (16,000 bytes).
    assert rows.backward["slow"] == pytest.approx(1 + (2 * 32 + 16000 + 16) / 1000)


def test_autograd_keeps_inputs_and_results_but_no_parameters() -> None:
    calls = [
        LINEAR,
        operator("t", "aten.tanh.default", Ref("h")),
        operator("y", "aten.linear.default", Ref("t"), Ref("w2")),
    ]
    values = (
        *(X, W, H),
        value("t", "batch", 3, needs_grad=True),
        value("w2", 5, 3, needs_grad=True),
        value("y", "batch", 5, needs_grad=True),
    )
    saved = costed(graph(calls, values, ("w", "w2"), ("x",))).saved
    # The first linear keeps x, tanh its result, which is also what the second linear keeps.
    assert saved == {"x": 32, "t": 24}


def test_a_kept_view_counts_the_storage_once() -> None:
    calls = [
        operator("t", "aten.tanh.default", Ref("h")),
        operator("v", "aten.view.default", Ref("t"), (3, 2), aliases=("t",)),
        operator("e", "aten.exp.default", Ref("t")),
        operator("y", "aten.mul.Tensor", Ref("v"), Ref("v")),
    ]
    names = ("t", "e")
    values = (
        *(H, value("v", 3, "batch", needs_grad=True), value("y", 3, "batch", needs_grad=True)),
        *(value(name, "batch", 3, needs_grad=True) for name in names),
    )
    assert costed(graph(calls, values)).saved == {"t": 24, "e": 24}


def test_for_a_moment_a_result_stands_beside_gradients() -> None:
    # The result and its gradient of 24 bytes, or the gradient of w, 48 bytes.
    assert cost_of(LINEAR).transient_bytes == 24 + 48
    tanh = operator("y", "aten.tanh.default", Ref("h"))
    assert cost_of(tanh, value("y", "batch", 3, needs_grad=True)).transient_bytes == 24 + 24


def test_a_result_of_several_tensors_counts_all_of_them() -> None:
    split = operator("pair", "aten.split.Tensor", Ref("x"), 1)
    values = (value("pair[0]", 1, 4), value("pair[1]", 1, 4))
    assert cost_of(split, *values).transient_bytes == 32 + 32


def test_a_fraction_of_nothing_is_refused(slow_cores: str) -> None:
    path = Path(slow_cores)
    fractions = "    operators: {linear: [0.5, 0]}\n"
    path.write_text(path.read_text().replace("    type: cpu", f"{fractions}    type: cpu"))
    with pytest.raises(UserFileError, match=r"slow-cores.yaml:\d+:\d+: .*linear"):
        read_cluster(slow_cores)
