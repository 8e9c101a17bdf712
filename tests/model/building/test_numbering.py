"""Parameters are numbered as they are created, however modules get them."""

import copy

import torch
from torch import nn

from pipecut.model.building.numbering import counted_parameters, number_of


def keep(parameter: nn.Parameter, number: int) -> nn.Parameter:
    return parameter


def test_numbers_follow_creation() -> None:
    with counted_parameters(keep):
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
    assert [number_of(p) for p in model.parameters()] == [0, 1, 2]


def test_a_tied_parameter_has_one_number() -> None:
    with counted_parameters(keep):
        model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        model[1].weight = model[0].weight
    assert number_of(model.get_parameter("1.weight")) == 0


def test_copies_get_numbers_of_their_own() -> None:
    with counted_parameters(keep):
        first = nn.Linear(2, 2, bias=False)
        second = copy.deepcopy(first)
    assert (number_of(first.weight), number_of(second.weight)) == (0, 1)


def test_a_replacement_takes_the_place_of_a_parameter_everywhere() -> None:
    def to_meta(parameter: nn.Parameter, number: int) -> nn.Parameter:
        return nn.Parameter(parameter.data.to("meta"))

    real = nn.Parameter(torch.ones(2))
    with counted_parameters(to_meta):
        model = nn.Module()
        model.register_parameter("first", real)
        model.register_parameter("second", real)
    assert model.get_parameter("first") is model.get_parameter("second")
    assert model.get_parameter("first").is_meta


def test_afterwards_nothing_is_numbered() -> None:
    with counted_parameters(keep):
        pass
    assert not hasattr(nn.Linear(2, 2).weight, "_pipecut_number")
