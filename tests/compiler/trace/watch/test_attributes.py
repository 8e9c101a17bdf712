"""Attributes of modules are copied, compared, put back, and watched while they are read."""

from typing import Any

import pytest
import torch
from torch import nn

from pipecut.compiler.trace.watch.attributes import AttributeReads, Copied, Place, attributes_of


class Counting(nn.Module):
    scale = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.calls, self.cache = 0, None
        self.register_buffer("total", torch.zeros(2))


@pytest.mark.parametrize(
    ("before", "after", "differs"),
    [
        (1, 1, False),
        (1, 2, True),
        (1, 1.0, True),
        ("a", "b", True),
        (None, None, False),
    ],
)
def test_plain_values_are_compared(before: Any, after: Any, differs: bool) -> None:
    assert Copied.of(before).differs(after) == differs


@pytest.mark.parametrize(
    ("container", "change"),
    [
        ([1], lambda c: c.append(2)),
        ([object()], lambda c: c.__setitem__(0, object())),
        ({"a": 1}, lambda c: c.update(a=object())),
        ({"a": 1}, lambda c: c.update(b=1)),
        ({1}, lambda c: c.add(2)),
    ],
)
def test_a_container_is_compared_by_its_contents_and_restored(container: Any, change: Any) -> None:
    contents = container.copy()
    copied = Copied.of(container)
    assert not copied.differs(container)
    change(container)
    assert copied.differs(container)
    assert copied.restored() is container and container == contents


def test_another_object_of_equal_contents_differs() -> None:
    assert Copied.of([1]).differs([1])


def test_parameters_buffers_and_modules_are_no_attributes() -> None:
    attributes = attributes_of(dict(Counting().named_modules()))
    assert {place.name for place in attributes if place.path == ""} == {"calls", "cache"}
    assert Place("layer", "in_features") in attributes
    assert str(Place("layer", "in_features")) == "layer.in_features" and str(Place("", "a")) == "a"


def watch(model: nn.Module, *names: str) -> AttributeReads:
    return AttributeReads({"": model}, {Place("", name) for name in names})


def test_a_read_before_any_write_is_noted_with_its_line() -> None:
    model = Counting()
    with watch(model, "calls", "cache").watched() as reads:
        model.calls += 1
        model.cache = 3
        assert model.cache == 3
    assert list(reads.first_reads) == [Place("", "calls")]
    assert reads.first_reads[Place("", "calls")].split(":")[0].endswith("test_attributes.py")
    assert model.calls == 1


def test_an_attribute_of_the_class_and_a_missing_one_behave_as_ever() -> None:
    model, other = Counting(), Counting()
    with watch(model, "scale", "missing").watched() as reads:
        assert model.scale == other.scale == 2.0
        model.scale = 3.0
        assert (model.scale, other.scale) == (3.0, 2.0)
        with pytest.raises(AttributeError, match="'Counting' object has no attribute 'missing'"):
            _ = model.missing
        del model.scale
        assert model.scale == 2.0
    assert Place("", "scale") in reads.first_reads


def test_what_is_computed_of_the_batch_depends_on_data_and_constants_do_not() -> None:
    model = Counting()
    batch = torch.ones(2)
    with watch(model, "cache").watched() as reads:
        constant = torch.arange(3) + 1
        computed = batch * 2
        of_buffer = model.total + 1
    assert reads.depends_on_data([computed])
    assert not reads.depends_on_data(constant) and not reads.depends_on_data(of_buffer)
