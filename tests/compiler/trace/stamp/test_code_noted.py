"""What code is noted as a layer's."""

import gc
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import typing_extensions
from torch.overrides import TorchFunctionMode

from pipecut.compiler.trace.stamp.code_noted import CodeNoted


def collected(phase: str, info: dict[str, int]) -> None:
    """As a library may watch collections."""


def layer() -> list[Any]:
    """Makes so much that a collection would start, were collections not off."""
    return [[] for _ in range(10_000)]


@pytest.mark.parametrize("collects", [True, False])
def test_what_watches_collections_is_none_of_a_layers_code(collects: bool) -> None:
    noted, threshold, before = CodeNoted(), gc.get_threshold(), gc.isenabled()
    gc.callbacks.append(collected)
    try:
        gc.set_threshold(10)
        (gc.enable if collects else gc.disable)()
        with noted.watched():
            layer()
        assert gc.isenabled() == collects
    finally:
        gc.callbacks.remove(collected)
        gc.set_threshold(*threshold)
        (gc.enable if before else gc.disable)()
    names = {code.co_name for code in noted.ran}
    assert "layer" in names and "collected" not in names


def test_making_types_is_not_a_layers_own_code() -> None:
    noted = CodeNoted()
    with noted.watched():
        typing_extensions.TypedDict("Row", {"size": int})
    assert not noted.past_watching and not noted.ran


class Doubling(torch.Tensor):
    """A tensor of the user's, with code of its own."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_function__(func, types, args, kwargs or {})


class Watching(TorchFunctionMode):
    """A mode of the user's."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Number:
    """What a function of torch calls to take it for a number."""

    def __index__(self) -> int:
        return 1


def distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x - y).sum()


def own(x: torch.Tensor) -> torch.Tensor:
    return x * 2


LIBRARY: Any = torch.library.Library("pipecut_test_noted", "DEF")  # type: ignore[no-untyped-call]
LIBRARY.define("own(Tensor x) -> Tensor")
LIBRARY.impl("own", own, "CompositeImplicitAutograd")
X = torch.ones(2, 2)
WITHIN: dict[str, Callable[[], object]] = {
    "__torch_function__": lambda: X.as_subclass(Doubling) + 1,
    "distance": lambda: torch.nn.functional.triplet_margin_with_distance_loss(
        X, X, X, distance_function=distance
    ),
    "__index__": lambda: X[Number()],
    "own": lambda: torch.ops.pipecut_test_noted.own(X),
}


@pytest.mark.parametrize("name", WITHIN)
def test_a_layers_code_is_noted_where_torch_calls_it(name: str) -> None:
    noted = CodeNoted()
    with noted.watched():
        torch.nn.functional.layer_norm(X, (2,))
        WITHIN[name]()
    assert name in {code.co_name for code in noted.ran}


def test_a_mode_that_was_there_before_is_noted() -> None:
    noted = CodeNoted()
    with Watching(), noted.watched():
        torch.add(X, X)
    assert "__torch_function__" in {code.co_name for code in noted.ran}


def test_what_runs_after_an_operator_is_noted_again() -> None:
    noted = CodeNoted()
    with noted.watched():
        X.square().sum()
        own(X)
    assert {"own"} <= {code.co_name for code in noted.ran}
    assert sys.getprofile() is None
