"""Nested inputs come apart by name and together again, or are refused."""

from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from pipecut.errors import PlanError, TraceError
from pipecut.model.batch.nesting import different_nesting, nested, take_apart
from pipecut.plan.schema import Container
from tests.models.batches.nested import Boxes, Encoding, Target, inputs, scored_inputs


@pytest.mark.parametrize("made", [inputs, scored_inputs])
def test_what_came_apart_goes_together_again(made: Any) -> None:
    batch = made(3)
    apart = take_apart(batch, "m:inputs")
    assert not any(isinstance(leaf, dict | list | tuple) for leaf in apart.leaves.values())
    again = nested(apart.nesting, apart.leaves)
    assert again == batch and again.keys() == batch.keys()
    assert again is not batch and all(
        again[name] is not value for name, value in batch.items() if name in apart.nesting
    )


def test_names_are_those_of_containers_and_keys() -> None:
    apart = take_apart(inputs(2), "m:inputs")
    assert list(apart.leaves) == [
        "views.images.0",
        "views.images.1",
        "views.scales.0",
        "views.scales.1",
        "views.mask",
        "views.more.flip",
        "encoding.words",
        "encoding.lines",
        "encoding.pages",
        "target.labels",
        "target.boxes.corners",
        "target.boxes.anchors",
        "target.smoothing",
        "target.ignored",
    ]
    assert {name: each.kind.rpartition(":")[2] for name, each in apart.nesting.items()} == {
        "views": "Views",
        "views.images": "list",
        "views.scales": "tuple",
        "views.more": "dict",
        "encoding": "Encoding",
        "target": "Target",
        "target.boxes": "Boxes",
    }


def test_types_and_order_stay() -> None:
    batch = {"a": OrderedDict(z=1, b=2), "d": defaultdict(list, {5: ()}), "t": ({"x": None},)}
    apart = take_apart(batch, "m:inputs")
    again = nested(apart.nesting, apart.leaves)
    assert list(again["a"]) == ["z", "b"] and type(again["a"]) is OrderedDict
    assert again == batch and type(again["d"]) is defaultdict
    assert isinstance(nested(*_apart({"x": Encoding(y=1)}))["x"], Encoding)
    boxes = nested(*_apart({"x": Boxes(torch.ones(1), torch.ones(2))}))["x"]
    assert isinstance(boxes, Boxes)
    target = nested(*_apart({"x": Target(torch.ones(1), boxes)}))["x"]
    assert isinstance(target, Target) and target.ignored == -100


def _apart(batch: dict[str, Any]) -> tuple[Any, Any]:
    apart = take_apart(batch, "m:inputs")
    return apart.nesting, apart.leaves


@dataclass
class Counting:
    """Has more than its fields."""

    x: torch.Tensor

    def __post_init__(self) -> None:
        self.count = len(self.x)


class Wide(dict[str, Any]):
    """Has more than its keys."""

    width = 3


def itself() -> dict[str, Any]:
    batch: dict[str, Any] = {"x": torch.ones(2)}
    batch["batch"] = batch
    return batch


def wide() -> Wide:
    made = Wide(x=torch.ones(2))
    made.width = 4
    return made


def local() -> Any:
    @dataclass
    class Local:
        x: torch.Tensor

    return Local(torch.ones(2))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Counting(torch.ones(2)), "with 'count' beside its members.*make it a field"),
        (wide(), "with 'width' beside its members"),
        (local(), "cannot be imported by that name; return a dict, or a dataclass.*top of a"),
        ({1.5: torch.ones(2)}, r"has the key 1.5; keys must be strings or whole numbers"),
        ({True: torch.ones(2)}, "has the key True"),
        ({"a.b": 1, "a": {"b": 2}}, "'batch.a.b' of m:inputs is the name of two things"),
        ({0: 1, "0": 2}, "'batch.0' of m:inputs is the name of two things"),
        (itself(), "nested deeper than 32; does it hold itself"),
    ],
)
def test_what_cannot_be_made_again_is_refused(value: Any, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        take_apart({"batch": value}, "m:inputs")


@pytest.mark.parametrize("kind", ["", "x", "no_such_module:X", "tests.plans:no.X", "os:getcwd"])
def test_a_class_that_is_not_here_is_told(kind: str) -> None:
    with pytest.raises(PlanError, match="which is not here .*; compile again"):
        nested({"batch": Container(kind=kind, keys=["x"])}, {"batch.x": 1})


def test_differences_of_two_nestings_are_named() -> None:
    first = take_apart({"a": [1, 2], "b": {"x": 1}, "c": (1,), "d": {}}, "m").nesting
    second = take_apart({"a": [1, 2, 3], "b": {"y": 1}, "c": [1], "d": {}}, "m").nesting
    assert dict(different_nesting(first, second)) == {
        "a": "a list of 2, then 3",
        "b": "of keys ['x'], then ['y']",
        "c": "a tuple in one and not in the other",
    }
    assert not list(different_nesting(first, first))
