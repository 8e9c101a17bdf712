"""Numbers and tables as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecut.quantities import show_bytes, show_seconds
from pipecut.text_table import numbers, text_table


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (2**30, "1.0 GiB"),
        (2**51, "2048.0 TiB"),
        (-2048, "-2.0 KiB"),
    ],
)
def test_bytes_have_the_unit_that_keeps_them_short(count: int, text: str) -> None:
    assert show_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.345, "12.3 s"), (0.5, "500 ms"), (1e-3, "1 ms"), (2.5e-5, "25 us"), (3e-9, "3 ns")],
)
def test_seconds_have_three_digits(seconds: float, text: str) -> None:
    assert show_seconds(seconds) == text


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    table = text_table(("stage", "of"), [("0", "a long cell"), ("10", "")])
    assert table.splitlines() == ["stage  of", "0      a long cell", "10"]


@given(st.lists(st.integers(0, 30)))
def test_runs_of_numbers_name_each_once(values: list[int]) -> None:
    text = numbers(values)
    named: list[int] = []
    for run in text.split(", ") if text != "-" else []:
        first, _, last = run.partition("-")
        named += range(int(first), int(last or first) + 1)
    assert named == sorted(set(values))
