"""Megatron's layout strings, written out and shortened again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecut.compiler.inputs.layout import Layout, parse_layout


def test_a_layout_of_61_layers_is_written_out() -> None:
    """The example of Megatron's own documentation, less the layer that predicts more tokens."""
    layout = parse_layout("Et*3|(tt|)*29,L")
    assert layout.stages == ("Ettt", *["tt"] * 29, "L") and layout.layers == 61
    assert layout.stage_of_layer[:5] == [0, 0, 0, 1, 1] and layout.stage_of_layer[-1] == 29
    assert (layout.stage_with("E"), layout.stage_with("L")) == (0, 30)
    assert str(layout) == "Ettt|(tt|)*29L"


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("E|tL", ["E", "tL"]),
        ("E t, t | t L", ["Ett", "tL"]),
        ("(E)*1(t|)*2L", ["Et", "t", "L"]),
        ("E((t|)*2t)*2L", ["Et", "t", "tt", "t", "tL"]),
        ("Et*10|L", ["E" + "t" * 10, "L"]),
    ],
)
def test_repeats_commas_and_spaces(text: str, stages: list[str]) -> None:
    assert list(parse_layout(text).stages) == stages


@given(counts=st.lists(st.integers(1, 6), min_size=1, max_size=12), ends=st.booleans())
def test_what_is_shortened_stands_for_the_same(counts: list[int], ends: bool) -> None:
    stages = ["t" * count for count in counts]
    stages = ["E", *stages, "L"] if ends else [f"E{stages[0]}", *stages[1:]]
    stages = stages if ends else [*stages[:-1], f"{stages[-1]}L"]
    layout = Layout(tuple(stages))
    assert parse_layout(str(layout)) == layout
    assert len(str(layout)) <= len("|".join(stages))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("E(t|", r"'E\(t\|': '\(' without a '\)' behind it"),
        ("Et)L", r"'\)' without a '\('"),
        ("Et*|L", r"'\*' needs a number behind it"),
        ("Et*9999999999|L", "stands for more than 100,000 letters"),
        ("Et*99999999|L", "stands for more than 100,000 letters"),
        ("Et|xL", "'x' is none of E"),
        ("Et|mL", "'m', a layer that predicts more tokens, is not told from others"),
        ("Et||L", "stage 1 has nothing; give each stage a letter"),
        ("tE|L", "it must begin with the one E"),
        ("EtE|L", "it must begin with the one E"),
        ("Et|LL", "it must end with the one L"),
        ("E|L", "it has no layer, t"),
        ("", "stage 0 has nothing"),
    ],
)
def test_what_is_no_layout_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_layout(text)
