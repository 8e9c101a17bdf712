"""Lengths are learnt from the inputs function, and left open where the model follows them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.trace.lengths import Lengths, learn_lengths
from pipecut.compiler.trace.trace import trace
from pipecut.errors import TraceError
from pipecut.model.batch.nesting import take_apart

JOB = """
model: {factory: "tests.models.batches.lengths:MODEL"}
inputs: "tests.models.batches.lengths:tokens"
batch: {global: 8, microbatch: 2}
"""


def learnt(function: Callable[..., Any]) -> Lengths:
    return learn_lengths(
        "inputs",
        function,
        take_apart(function(2), "inputs"),
        lambda **sizes: take_apart(function(2, **sizes), "inputs"),
    )


def test_dimensions_that_change_with_a_length_follow_it() -> None:
    def inputs(n: int, length: int = 8, target_length: int = 6) -> Any:
        return {
            "x": torch.ones(n, length),
            "mask": torch.ones(n, 1, length, length),
            "y": torch.ones(n, target_length),
            "places": torch.arange(length),
            "table": torch.ones(8),
            "causal": True,
        }

    lengths = learnt(inputs)
    assert lengths.longest == {"length": 8, "target_length": 6} and not lengths.refused
    assert lengths.of("x") == {1: "length"} and lengths.of("y") == {1: "target_length"}
    assert lengths.of("mask") == {2: "length", 3: "length"}
    assert lengths.of("places") == {0: "length"} and not lengths.of("table")


@pytest.mark.parametrize("inputs", [lambda n: {"x": n}, lambda n, width=8, length=2: {"x": n}])
def test_a_function_without_a_length_has_none(inputs: Callable[..., Any]) -> None:
    assert learnt(inputs) == Lengths(dimensions={"x": {}})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (lambda n, length=8: {"x": torch.ones(n, length + 1)}, "has 9 in dimension 1 for a length"),
        (lambda n, length=8: {"x": torch.ones(n, 8)}, "no dimension of .* follows its length"),
        (lambda n, length=8: {"x": torch.ones(n, length), "k": length}, "'k' .* is no tensor"),
        (lambda n, length=8: {"x": torch.ones((1,) * length)}, "another number of dimensions"),
        (lambda n, length=8: {f"x{length}": torch.ones(n)}, "returns other names"),
    ],
)
def test_lengths_that_cannot_be_followed_say_why(inputs: Callable[..., Any], message: str) -> None:
    lengths = learnt(inputs)
    assert not lengths.longest
    assert re.search(message, lengths.refused)


def test_a_length_needs_the_longest_as_its_default() -> None:
    with pytest.raises(TraceError, match="without a default; give it the longest.*length=512"):
        learn_lengths("inputs", lambda n, length: {}, {}, lambda **_: {})


def traced(tmp_path: Path, model: str, extra: str = "") -> Any:
    path = tmp_path / "job.yaml"
    path.write_text(JOB.replace("MODEL", model) + extra)
    return trace(read_job(path))


def test_a_model_that_follows_its_inputs_has_open_lengths(tmp_path: Path) -> None:
    graph = traced(tmp_path, "positions")
    assert graph.lengths == {"length": 24} and graph.shortest == {"length": 2}
    assert graph.values["batch_input_ids"].shape == ("batch", "length")
    assert graph.values["batch_input_ids"].sizes == (2, 24)


@pytest.mark.parametrize("key", ["", "lengths: fixed\n"])
def test_a_model_of_one_length_takes_the_longest(tmp_path: Path, key: str) -> None:
    graph = traced(tmp_path, "of_one_length", key)
    assert graph.lengths == {} and graph.values["batch_input_ids"].shape == ("batch", 24)
    (note,) = graph.notes or ("",)
    expected = r"batches of length 24 only \(length is always 24 \(at lengths.py:\d+\)\)"
    assert bool(re.search(expected, note)) != bool(key)


def test_a_model_of_one_length_is_refused_where_lengths_are_to_be_dynamic(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"at lengths.py:\d+.*; write lengths: fixed"):
        traced(tmp_path, "of_one_length", "lengths: dynamic\n")


def test_inputs_without_a_length_are_refused_where_lengths_are_to_be_dynamic(
    tmp_path: Path,
) -> None:
    path = tmp_path / "job.yaml"
    text = JOB.replace("tests.models.batches.lengths:tokens", "tests.models.core:tokens")
    path.write_text(text.replace("MODEL", "positions") + "lengths: dynamic\n")
    with pytest.raises(TraceError, match=r"second parameter .* as def batch\(samples, length=512"):
        trace(read_job(path))


def test_a_choice_by_length_gives_the_shortest_that_is_traced(tmp_path: Path) -> None:
    graph = traced(tmp_path, "choosing")
    assert graph.shortest == {"length": 13}
    assert graph.notes == (
        "this plan takes a length of 13 or more: with less the model does something else",
    )


def test_what_a_trace_takes_for_granted_of_two_sizes_is_no_open_length(tmp_path: Path) -> None:
    graph = traced(tmp_path, "comparing")
    assert graph.lengths == {}
    assert re.search(r"takes for granted that Ne\((length, batch|batch, length)\)", graph.notes[1])
