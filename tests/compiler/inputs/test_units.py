"""Quantities with units."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecut.compiler.inputs.units import (
    parse_bytes,
    parse_flops,
    parse_rate,
    parse_seconds,
)
from pipecut.quantities import show_bytes, show_seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [("80GiB", 80 * 2**30), ("80GB", 80e9), (" 1.5 MiB ", 1.5 * 2**20), ("0B", 0), ("1e3kB", 1e6)],
)
def test_bytes_are_decimal_or_binary(text: str, expected: float) -> None:
    assert parse_bytes(text) == expected


def test_rates_are_in_bytes_or_bits() -> None:
    assert parse_rate("450GB/s") == 450e9
    assert parse_rate("400Gbit/s") == 50e9
    assert parse_rate("1GiB/s") == 2**30


def test_times_and_flops() -> None:
    assert parse_seconds("5us") == pytest.approx(5e-6)
    assert parse_seconds("0s") == 0
    assert parse_flops("989TFLOP/s") == parse_flops("989TFLOPS") == 989e12


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_bytes, "80", "has no unit or is not a quantity; write it like 80GiB"),
        (parse_bytes, 80, "has no unit"),
        (parse_bytes, "80Gib", "unknown unit 'Gib'"),
        (parse_bytes, "-1GiB", "must be zero or more"),
        (parse_rate, "0GB/s", "must be more than zero; write it like 450GB/s"),
        (parse_rate, "450GB", "unknown unit 'GB'"),
        (parse_seconds, "5 minutes", "unknown unit 'minutes'"),
        (parse_flops, "1e30TFLOP/s", "more than any machine has"),
        (parse_bytes, "many", "has no unit or is not a quantity"),
    ],
)
def test_what_is_no_quantity_is_refused_with_an_example(
    parse: object, text: object, message: str
) -> None:
    assert callable(parse)
    with pytest.raises(ValueError, match=message):
        parse(text)


@given(st.integers(0, 2**60))
def test_shown_bytes_are_close_to_what_they_show(count: int) -> None:
    number, unit = show_bytes(count).split()
    assert parse_bytes(f"{number}{unit}") == pytest.approx(count, rel=0.06, abs=1)


@given(st.floats(1e-9, 1e5))
def test_shown_seconds_are_close_to_what_they_show(seconds: float) -> None:
    number, unit = show_seconds(seconds).split()
    assert parse_seconds(f"{number}{unit}") == pytest.approx(seconds, rel=0.01)
