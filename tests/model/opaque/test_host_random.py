"""Python's and NumPy's random numbers within opaque modules, and around them."""

import random

import numpy

from pipecut.model.draws import Draws
from pipecut.model.opaque.host_random import HostRandom


def drawn() -> tuple[float, float]:
    return random.random(), numpy.random.rand()


def in_opaque(draws: Draws) -> tuple[float, float]:
    """What an opaque module would draw."""
    draws.begin_opaque()
    values = drawn()
    draws.end_opaque()
    return values


def test_an_opaque_module_draws_by_seed_step_microbatch_and_place() -> None:
    with Draws(3).at(1, 2) as draws:
        first, second = in_opaque(draws), in_opaque(draws)
    with Draws(3).at(1, 2) as draws:
        assert [in_opaque(draws), in_opaque(draws)] == [first, second]
    with Draws(3, numbers=[1]).at(1, 2) as draws:
        assert in_opaque(draws) == second
    with Draws(3).at(1, 3) as draws:
        assert in_opaque(draws) not in (first, second)


def test_who_draws_around_it_goes_on_where_it_was() -> None:
    before = HostRandom.now()
    with Draws(0) as draws:
        in_opaque(draws)
    assert before.who_drew is None
    expected = drawn()
    assert before.who_drew == "random"
    before.put_back()
    numpy.random.rand()
    assert before.who_drew == "numpy.random"
    before.put_back()
    assert drawn() == expected
