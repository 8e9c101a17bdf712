"""Two runs are compared tensor by tensor, relative to each tensor's norm."""

import math

import pytest
import torch

from pipecut.model.comparison import FLOOR, Comparing, Comparison, Difference


def compared(
    tensors: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], stride: float = 0.0
) -> Comparison:
    comparing = Comparing(stride)
    comparing.add(tensors, expected)
    return comparing.result(1e-5)


def test_equal_tensors_differ_by_nothing() -> None:
    tensors = {"loss/loss": torch.tensor(2.0), "gradient/w": torch.ones(3)}
    result = compared(tensors, tensors)
    assert result.passed and result.compared == 2
    assert {kind: d.value for kind, d in result.worst.items()} == {"loss": 0.0, "gradient": 0.0}


def test_a_difference_is_relative_to_the_expected_norm() -> None:
    result = compared({"gradient/w": torch.full((4,), 2.2)}, {"gradient/w": torch.full((4,), 2.0)})
    assert result.worst["gradient"].value == pytest.approx(0.1) and not result.passed


def test_the_worst_of_each_kind_is_named() -> None:
    expected = {f"{kind}/{n}": torch.ones(2) for kind in ("gradient", "buffer") for n in "abc"}
    tensors = {**expected, "gradient/b": torch.tensor([1.0, 1.5]), "buffer/c": torch.zeros(2)}
    worst = compared(tensors, expected).worst
    assert worst["gradient"].name == "b" and worst["buffer"] == Difference(1.0, "c")


def test_noise_around_zero_is_measured_by_the_largest_of_its_kind() -> None:
    expected = {"gradient/large": torch.full((1,), 10.0), "gradient/noise": torch.zeros(1)}
    tensors = {**expected, "gradient/noise": torch.full((1,), 1e-8)}
    difference = compared(tensors, expected).worst["gradient"]
    assert difference.value == pytest.approx(1e-8 / (FLOOR * 10.0))


def test_a_parameter_at_zero_is_measured_by_the_step_it_could_have_made() -> None:
    expected, tensors = {"parameter/b": torch.zeros(4)}, {"parameter/b": torch.full((4,), 1e-9)}
    assert compared(tensors, expected, stride=1e-3).worst["parameter"].value == pytest.approx(1e-6)
    assert not compared(tensors, {**expected, "parameter/b": torch.full((4,), 1e-4)}).passed


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_never_passes(bad: float) -> None:
    result = compared({"loss/loss": torch.tensor(bad)}, {"loss/loss": torch.tensor(1.0)})
    assert result.worst["loss"].value == math.inf and not result.passed


def test_tensors_that_only_one_run_has_never_pass() -> None:
    result = compared({"gradient/new": torch.ones(1)}, {})
    assert result.worst["gradient"] == Difference(math.inf, "new is not in the unsplit model")
    result = compared({"gradient/w": torch.ones(2)}, {"gradient/w": torch.ones(3)})
    assert not result.passed
    comparing = Comparing()
    comparing.miss("buffer/running/mean")
    assert comparing.result(1.0).worst["buffer"].name == "running/mean is on no rank"


def test_complex_tensors_are_compared_as_such() -> None:
    expected = {"parameter/w": torch.tensor([1 + 1j])}
    assert not compared({"parameter/w": torch.tensor([1 - 1j])}, expected).passed


def test_a_comparison_prints_a_line_for_each_kind() -> None:
    worst = {"loss": Difference(2e-7, "loss"), "gradient": Difference(0.5, "layers.0.weight")}
    assert str(Comparison(worst, 1e-5, 9)) == (
        "9 tensors compared, tolerance 1e-05 of a tensor's norm\n"
        "FAIL gradient   5.00e-01  (layers.0.weight)\n"
        "ok   loss       2.00e-07  (loss)"
    )


@pytest.mark.parametrize(
    ("differs", "rounding", "passed"),
    [(3e-5, 4e-5, True), (3e-5, 2e-5, False), (2e-3, 1.0, False)],
    ids=["rounding makes more", "rounding makes less", "rounding makes anything"],
)
def test_what_rounding_makes_as_well_passes(differs: float, rounding: float, passed: bool) -> None:
    expected = {"parameter/b": torch.ones(1), "parameter/w": torch.ones(1)}
    comparing = Comparing(tolerance=1e-5)
    comparing.add(
        {**expected, "parameter/b": torch.full((1,), 1 + differs)},
        expected,
        {**expected, "parameter/b": torch.full((1,), 1 - rounding)},
    )
    result = comparing.result(1e-5)
    assert result.passed == passed and ("b" in str(result.rounded)) == passed
    assert ("rounding" in str(result)) == passed


def test_a_wrong_tensor_is_not_excused_by_the_rounding_of_another() -> None:
    expected = {"gradient/a": torch.ones(1), "gradient/b": torch.ones(1)}
    comparing = Comparing(tolerance=1e-5)
    comparing.add(
        {**expected, "gradient/a": torch.full((1,), 1.0001)},
        expected,
        {**expected, "gradient/b": torch.full((1,), 2.0)},
    )
    assert comparing.result(1e-5).worst["gradient"].name == "a"
