"""Which modules of a model may be equal layers."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from pipecut.compiler.trace.stamp.layers import equal_layers
from pipecut.compiler.trace.watch.attributes import Place


class Layer(nn.Module):
    """Two parts and a number."""

    def __init__(self, number: int = 0) -> None:
        super().__init__()
        self.number = number
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)


def model(count: int = 5) -> Any:
    """So many layers side by side."""
    return nn.Sequential(nn.Linear(2, 2), nn.ModuleList(Layer(number) for number in range(count)))


def test_layers_are_those_of_one_list() -> None:
    (equal,) = equal_layers(model())
    assert [layer.path for layer in equal.layers] == [f"1.{number}" for number in range(5)]
    assert [layer.number for layer in equal.layers] == [0, 1, 2, 3, 4]
    assert equal.differing == {Place("", "number")}
    assert equal.class_name == "Layer"


def test_layers_of_a_sequential_may_have_names() -> None:
    named = {f"block{number}": Layer(number) for number in range(4)}
    (equal,) = equal_layers(nn.Sequential(OrderedDict(first=nn.Linear(2, 2), **named)))
    assert [layer.path for layer in equal.layers] == list(named)


def shape(layers: Any) -> None:
    layers[2].a = nn.Linear(2, 2, bias=False)


def mode(layers: Any) -> None:
    layers[2].b.eval()


def frozen(layers: Any) -> None:
    layers[2].a.weight.requires_grad_(False)


def tied(layers: Any) -> None:
    layers[2].a.weight = layers[2].b.weight


def tied_outside(layers: Any) -> None:
    layers[2].a.weight = layers[1].b.weight


def hook(layers: Any) -> None:
    layers[2].a.register_forward_hook(print)


def forward(layers: Any) -> None:
    layers[2].a.forward = print


ALONE = (shape, mode, frozen, tied, hook, forward)


@pytest.mark.parametrize("change", ALONE)
def test_a_layer_of_another_structure_is_left_out(change: Callable[[Any], None]) -> None:
    odd = model(6)
    change(odd[1])
    (equal,) = equal_layers(odd)
    assert [layer.path for layer in equal.layers] == ["1.0", "1.1", "1.3", "1.4", "1.5"]


def test_layers_that_share_a_tensor_differ_from_the_others() -> None:
    odd = model(6)
    tied_outside(odd[1])
    (equal,) = equal_layers(odd)
    assert [layer.number for layer in equal.layers] == [0, 1, 2, 3]
    assert [layer.path for layer in equal.layers] == ["1.0", "1.3", "1.4", "1.5"]


def test_three_layers_are_too_few() -> None:
    assert not list(equal_layers(model(3)))


def test_one_module_that_stands_often_is_no_set() -> None:
    assert not list(equal_layers(nn.ModuleList([Layer()] * 6)))
