"""What code is noted as a layer's."""

import gc
from typing import Any

import pytest
import typing_extensions

from pipecut.compiler.trace.stamp.reached import CodeNoted


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
