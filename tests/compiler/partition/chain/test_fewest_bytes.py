"""The cut of an order that moves the fewest bytes, against all cuts of it."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings

from pipecut.compiler.partition.chain.chain import chain_cuts
from pipecut.compiler.partition.chain.fewest_bytes import fewest_bytes
from pipecut.compiler.partition.load import bottleneck, moved_bytes
from pipecut.compiler.partition.memory import fits
from pipecut.compiler.partition.problem import Problem
from tests.compiler.partition.problems import chain, problems


def test_the_smallest_tensor_within_the_target_is_cut() -> None:
    problem = chain([1.0] * 5, 2, [0.2, 0.4, 0.3, 0.1])
    assert fewest_bytes(problem, [0, 0, 0, 1, 1], target=5.0) == [0, 0, 0, 0, 1]
    assert fewest_bytes(problem, [0, 0, 0, 1, 1], target=3.6) == [0, 0, 0, 1, 1]


def test_no_cut_within_the_target_is_none() -> None:
    assert fewest_bytes(chain([2.0] * 4, 2), [0, 0, 1, 1], target=3.0) is None


def test_direct_transfers_and_shared_devices_have_no_such_cut() -> None:
    problem = chain([1.0] * 4, 2)
    assert fewest_bytes(replace(problem, comm="direct"), [0, 0, 1, 1], 9.0) is None
    assert fewest_bytes(replace(problem, devices=(0, 0)), [0, 0, 1, 1], 9.0) is None


@settings(max_examples=40, deadline=None)
@given(problem=problems())
def test_no_cut_of_the_order_moves_fewer_bytes(problem: Problem) -> None:
    devices = tuple(replace(row, capacity=2**50) for row in problem.stage_devices)
    problem = replace(problem, stage_devices=devices, shared=())
    stages = chain_cuts(problem)
    assert stages is not None
    target = bottleneck(problem, stages) * 1.2
    cut = fewest_bytes(problem, stages, target)
    assert cut is not None and fits(problem, cut) and bottleneck(problem, cut) <= target
    count = len(problem.blocks)
    chains = (
        [sum(v >= first for first in firsts) for v in range(count)]
        for firsts in itertools.combinations(range(1, count), len(devices) - 1)
    )
    fast = [other for other in chains if bottleneck(problem, other) <= target]
    assert moved_bytes(problem, cut) == pytest.approx(min(moved_bytes(problem, c) for c in fast))
