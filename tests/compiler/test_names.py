"""The user's names stand in Python source without meaning anything else there."""

import ast
import builtins
import keyword

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecut.compiler.names import (
    RESERVED,
    identifier,
    in_comment,
    in_docstring,
    member,
    quoted,
)


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        *(("x", "x"), ("input.ids", "input_ids"), ("0", "_0"), ("", "_")),
        *(("class", "class_"), ("batch", "batch_"), ("print", "print_"), ("ä", "_")),
    ],
)
def test_a_name_becomes_the_closest_identifier(name: str, variable: str) -> None:
    assert identifier(name) == variable


@given(st.text())
def test_an_identifier_means_nothing_else(name: str) -> None:
    variable = identifier(name)
    assert variable.isidentifier() and variable.isascii() and not keyword.iskeyword(variable)
    assert variable not in RESERVED and not hasattr(builtins, variable)


@given(st.text())
def test_a_quoted_text_is_the_text_itself(text: str) -> None:
    assert ast.literal_eval(quoted(text)) == text


@pytest.mark.parametrize(
    ("name", "access"),
    [
        *(("weight", ".weight"), ("0", "[0]"), ("07", '["07"]'), ("class", '["class"]')),
        *(("__private", '["__private"]'), ("a b", '["a b"]'), ("ﬁ", '["ﬁ"]')),
    ],
)
def test_a_part_is_an_attribute_where_python_leaves_its_name_alone(name: str, access: str) -> None:
    assert member(name) == access


@given(st.text())
def test_a_docstring_ends_where_it_should(text: str) -> None:
    tree = ast.parse(f'"""{in_docstring(text)}"""\nx = 1')
    assert len(tree.body) == 2


@given(st.text())
def test_a_comment_stays_on_its_line(text: str) -> None:
    tree = ast.parse(f"# {in_comment(text)}\nx = 1")
    assert len(tree.body) == 1
