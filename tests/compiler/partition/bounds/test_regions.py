"""What may stand before a boundary, on small graphs."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from pipecut.compiler.partition.bounds.regions import Limits, regions
from pipecut.compiler.partition.load import bottleneck
from pipecut.compiler.partition.problem import Problem
from tests.compiler.partition.problems import chain, placements, problems


def test_blocks_of_a_chain_are_before_or_after_a_boundary() -> None:
    problem = chain([1.0] * 4, 2, [1.0, 5.0, 1.0])
    (region,) = regions(problem, [np.ones(4)], 3.0)
    assert region.inside.tolist() == [True, False, False, False]
    assert region.outside.tolist() == [False, False, False, True]
    assert region.limits == (Limits(pytest.approx(1.0, abs=1e-5), pytest.approx(3.0, abs=1e-5)),)
    assert region.bytes_over == pytest.approx(1.0, rel=1e-5)
    assert region.seconds_over == pytest.approx(1.0, rel=1e-5)


def test_without_an_incumbent_anything_may_stand_anywhere() -> None:
    first, second = regions(chain([1.0] * 4, 3), [np.ones(4)], float("inf"))
    assert first is second and first.bytes_over == 0.0
    assert not first.inside.any() and not first.outside.any()
    assert first.limits == (Limits(pytest.approx(0.0, abs=1e-5), pytest.approx(4.0, abs=1e-5)),)


def test_a_tensor_from_before_to_after_crosses_in_any_case() -> None:
    problem = chain([1.0, 1.0], 2, [6.0])
    (region,) = regions(problem, [], 1.5)
    assert region.inside.tolist() == [True, False] and region.outside.tolist() == [False, True]
    assert region.bytes_over == pytest.approx(6.0, rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(problem=problems())
def test_every_placement_keeps_within_the_regions(problem: Problem) -> None:
    problem = replace(problem, shared=())
    fitting = list(placements(problem))
    if not fitting:
        return
    best = min(fitting, key=lambda stages: bottleneck(problem, stages))
    weights = [np.array([block.seconds["gpu"] for block in problem.blocks])]
    enclosed = regions(problem, weights, bottleneck(problem, best))
    for boundary, region in enumerate(enclosed, start=1):
        before = np.array(best) < boundary
        assert (before | ~region.inside).all() and (~before | ~region.outside).all()
        (limits,) = region.limits
        assert limits.least - 1e-4 <= weights[0][before].sum() <= limits.largest + 1e-4
