"""Merges keep the optimum; orders are topological; the blocks around cuts stay single."""

from dataclasses import replace

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecut.compiler.partition.contract import expand
from pipecut.compiler.partition.problem import Problem
from pipecut.compiler.partition.reduce import (
    around_cuts,
    depth_first_order,
    lossless,
    needed_edges,
    ordered,
)
from tests.compiler.partition.problems import brute_force, chain, problems


def test_a_block_joins_its_consumer_where_its_tensor_costs_more_than_it() -> None:
    problem = replace(chain([1.0, 9.0, 9.0], 2, [5.0, 1.0]), comm="direct")
    problem = replace(problem, stage_devices=problem.stage_devices[:1] * 2)
    small, members = lossless(problem)
    assert members == [[0, 1], [2]] and len(small.blocks) == 2


def test_nothing_merges_where_memory_binds_or_transfers_are_relayed() -> None:
    problem = chain([1.0, 9.0, 9.0], 2, [5.0, 1.0])
    problem = replace(problem, stage_devices=problem.stage_devices[:1] * 2)
    assert lossless(problem)[0] is problem
    pinned = replace(problem, comm="direct", pins=((0, 0),))
    assert lossless(pinned)[0] is pinned


@settings(max_examples=40, deadline=None)
@given(problem=problems(comm="direct"))
def test_lossless_merges_keep_the_optimum(problem: Problem) -> None:
    device = replace(problem.stage_devices[0], capacity=2**40)
    roomy = replace(problem, stage_devices=(device,) * len(problem.stage_devices))
    small, members = lossless(roomy)
    best = brute_force(small)
    assert best is not None and best == pytest.approx(brute_force(roomy))
    assert sorted(v for group in members for v in group) == list(range(len(problem.blocks)))
    assert expand([0] * len(members), members, len(problem.blocks)) == [0] * len(problem.blocks)


@settings(max_examples=60, deadline=None)
@given(
    st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda edge: edge[0] < edge[1]))
)
def test_needed_edges_are_the_transitive_reduction(edges: set[tuple[int, int]]) -> None:
    graph: nx.DiGraph[int] = nx.DiGraph(sorted(edges))
    assert needed_edges(edges, 10) == set(nx.transitive_reduction(graph).edges)


def test_groups_on_a_cycle_are_one() -> None:
    problem = replace(chain([1.0] * 4, 2), edges=frozenset({(0, 1), (1, 2), (2, 3)}))
    assert ordered(problem, [[0, 2], [1], [3]]) == [[0, 1, 2], [3]]


def test_a_branch_is_followed_to_its_end() -> None:
    graph: nx.DiGraph[int] = nx.DiGraph([(0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 5)])
    order = depth_first_order(graph)
    assert order in ([0, 1, 3, 2, 4, 5], [0, 2, 4, 1, 3, 5])


def test_blocks_near_the_cuts_stay_single() -> None:
    problem, stages = chain([1.0] * 24, 2), [0] * 12 + [1] * 12
    merged, members = around_cuts(problem, stages, 12)
    assert members[:2] == [[0], [1]] and members[4:6] == [[10], [11]]
    assert members[2:4] == [[2, 3, 4, 5], [6, 7, 8, 9]]
    assert sum(block.seconds["gpu"] for block in merged.blocks) == 24.0
