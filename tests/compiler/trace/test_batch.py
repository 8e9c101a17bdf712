"""What a batch holds is learnt from two calls of the inputs function."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pipecut.compiler.trace.batch import ExampleBatch, example_batch
from pipecut.errors import TraceError
from tests.costs import made_job

Inputs = Callable[[int], Any]


@pytest.fixture
def batch_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Inputs], ExampleBatch]:
    """The example batch of two samples of an inputs function."""

    def batch(function: Inputs, precision: str = "fp32") -> ExampleBatch:
        found = "pipecut.compiler.trace.batch.find_function"
        monkeypatch.setattr(found, lambda name, folders, path: function)
        return example_batch(made_job(precision=precision), 2)

    return batch


def test_tensors_are_split_or_whole_and_numbers_are_constants(batch_of: Any) -> None:
    batch = batch_of(lambda n: {"x": torch.ones(n, 3), "table": torch.ones(5), "causal": True})
    assert batch.tensors["x"].shape == (2, 3) and batch.samples == 2
    assert batch.whole == {"table"} and batch.constants == {"causal": True}


def test_nested_tensors_and_numbers_have_names_of_their_own(batch_of: Any) -> None:
    def inputs(n: int, length: int = 8) -> Any:
        ids = [torch.ones(n, length), torch.ones(length)]
        return {"x": {"ids": ids, "flag": None, "nan": float("nan")}, "y": (torch.ones(n), 2)}

    batch = batch_of(inputs)
    assert list(batch.tensors) == ["x.ids.0", "x.ids.1", "y.0"] and batch.whole == {"x.ids.1"}
    assert list(batch.constants) == ["x.flag", "x.nan", "y.1"]
    assert list(batch.nesting) == ["x", "x.ids", "y"]
    assert batch.lengths.dimensions["x.ids.0"] == {1: "length"}


def test_floating_tensors_have_the_jobs_precision(batch_of: Any) -> None:
    batch = batch_of(lambda n: {"x": torch.ones(n), "y": torch.ones(n, dtype=torch.int64)}, "bf16")
    assert [t.dtype for t in batch.tensors.values()] == [torch.bfloat16, torch.int64]


def test_a_function_of_even_numbers_only_is_asked_for_twice_as_many(batch_of: Any) -> None:
    def even(n: int) -> Any:
        assert n % 2 == 0
        return {"x": torch.ones(n)}

    assert batch_of(even).tensors["x"].shape == (2,)


def x(make: Callable[[int], Any]) -> Inputs:
    """Inputs of an odd `x` beside a good tensor."""
    return lambda n: {"good": torch.ones(n), "x": make(n)}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (lambda n: [torch.ones(n)], "returned a list; it must return a dict of tensors"),
        (lambda n: {"a": 1}, "returned a dict; it must return a dict of tensors"),
        (lambda n: {1: torch.ones(n)}, "has the key 1.*must be strings"),
        (lambda n: {"x": torch.ones(n), **({"y": 1} if n > 2 else {})}, "returns 'y' for some num"),
        (lambda n: {"x": torch.ones(3)}, "no tensor of .* has the number of samples"),
        (x(lambda n: torch.eye(n).to_sparse()), "sparse_coo tensor.*x.to_dense"),
        (x(lambda n: torch.ones(n, device="meta")), "is on meta"),
        (x(lambda n: torch.ones(n, dtype=torch.float8_e8m0fnu)), "float8_e8m0fnu.*as float32"),
        (x(lambda n: torch.ones(n) if n == 2 else 1), "a tensor for 2 samples and a int for 3"),
        (x(lambda n: torch.ones((n,) * n)), "same number of dimensions for every batch"),
        (x(lambda n: torch.ones(n, 2 * n)), "dimension 1 .* is neither fixed nor.*pad it"),
        (x(lambda n: torch.ones(n, n)), r"dimensions \[0, 1\] .* all follow the batch"),
        (x(lambda n: torch.ones(3, n)), r"return x.transpose\(0, 1\), and transpose it back"),
        (x(lambda n: torch.ones(n).numpy()), r"numpy.ndarray.*return torch.from_numpy\(x\)"),
        (x(lambda n: {1}), "is a set.*under a name of its own"),
        (
            x(lambda n: torch.ones(1).numpy()[0]),
            r"'x' of .*test_batch.py:\d+\) .*return x.item\(\)",
        ),
        (
            x(lambda n: [torch.ones(3)] * n),
            r"\(.*test_batch.py:\d+\) is a list of 2, then 3.*stack",
        ),
        (x(lambda n: {"a" * n: torch.ones(n)}), "'x' .* is of keys .*'aa'.*, then .*'aaa'"),
        (x(lambda n: {"a": [torch.ones(n, n)]}), r"dimensions \[0, 1\] of 'x.a.0' .*all follow"),
        (x(lambda n: {"a": [f"{n} words"]}), "'x.a.0' of .* is '2 words' .*no text.*tokenizer"),
        (x(lambda n: n), "is 2 for 2 samples and 3 for 3, and a plan holds one value"),
    ],
)
def test_what_no_batch_can_hold_is_refused_with_a_remedy(
    batch_of: Any, inputs: Inputs, message: str
) -> None:
    with pytest.raises(TraceError, match=message):
        batch_of(inputs)
