"""Smaller problems: merges that keep the optimum, and a lossy one around known cuts."""

from collections import defaultdict
from dataclasses import dataclass

import networkx as nx

from pipecut.compiler.partition.contract import contract
from pipecut.compiler.partition.load import transfer_seconds
from pipecut.compiler.partition.memory import peak_bytes
from pipecut.compiler.partition.problem import Members, Problem, Stages


def lossless(problem: Problem) -> tuple[Problem, Members]:
    """Merge a block into its only consumer, or that into it, where cutting between them never pays.

    u's only tensor has v as its only consumer, and v follows u. Take any placement with u and v
    apart.

    1. Moving u to v's stage takes time[u] and the tensor's transfers off, and puts time[u] and u's
       inputs on: v's stage gains nothing if transfer[u] >= time[u] + sum of transfer[inputs of u],
       and then no other stage does either.
    2. Moving v to u's stage: u's stage gains nothing if transfer[u] >= time[v] + transfer[outputs
       of v], when u is all that v takes.

    Only where memory cannot bind, transfers are direct, devices and links are equal and nothing is
    pinned, split or duplicated. Returns the problem and its members.
    """
    members = [[block] for block in range(len(problem.blocks))]
    if not _may_merge(problem):
        return problem, members
    while True:
        groups = _pairs(problem)
        if len(groups) == len(problem.blocks):
            return problem, members
        members = [[block for at in group for block in members[at]] for group in groups]
        problem = contract(problem, groups)


def _may_merge(problem: Problem) -> bool:
    are_equal = len(set(problem.stage_devices)) == 1
    if problem.comm != "direct" or not are_equal or problem.pins or problem.splits:
        return False
    if any(shared.seconds for shared in problem.shared):
        return False
    everything = peak_bytes(problem, [0] * len(problem.blocks))[0]
    return everything <= problem.stage_devices[0].capacity


@dataclass(frozen=True)
class _Neighbours:
    """By block: indices of the tensors it makes and uses, blocks that follow and precede it."""

    makes: dict[int, list[int]]
    uses: dict[int, list[int]]
    following: dict[int, list[int]]
    preceding: dict[int, list[int]]

    @staticmethod
    def of(problem: Problem) -> "_Neighbours":
        makes, uses, following, preceding = (defaultdict[int, list[int]](list) for _ in range(4))
        for index, tensor in enumerate(problem.tensors):
            makes[tensor.source].append(index)
            for consumer in tensor.consumers:
                uses[consumer].append(index)
        for u, v in problem.edges:
            following[u].append(v)
            preceding[v].append(u)
        return _Neighbours(makes, uses, following, preceding)


def _pairs(problem: Problem) -> Members:
    """Blocks that may join, in a topological order of the groups.

    Disjoint pairs only, so that no proof depends on another.
    """
    kind, near = problem.stage_devices[0].kind, _Neighbours.of(problem)
    transfer = [transfer_seconds(problem, tensor, 0) for tensor in problem.tensors]
    partner: dict[int, int] = {}
    for u, block in enumerate(problem.blocks):
        if len(near.makes[u]) != 1 or u in partner or len(near.following[u]) != 1:
            continue
        tensor, v = near.makes[u][0], near.following[u][0]
        if problem.tensors[tensor].consumers != (v,) or v in partner:
            continue
        inputs = sum(transfer[index] for index in near.uses[u])
        outputs = sum(transfer[index] for index in near.makes[v])
        may_move_first = transfer[tensor] >= block.seconds[kind] + inputs
        may_move_last = (
            near.uses[v] == [tensor]
            and near.preceding[v] == [u]
            and transfer[tensor] >= problem.blocks[v].seconds[kind] + outputs
        )
        if may_move_first or may_move_last:
            partner[u], partner[v] = v, u
    firsts = (u for u in range(len(problem.blocks)) if u <= partner.get(u, u))
    return ordered(problem, [[u, partner[u]] if u in partner else [u] for u in firsts])


def ordered(problem: Problem, groups: Members) -> Members:
    """The groups in a topological order, those on a cycle merged into one."""
    group_of = {block: at for at, group in enumerate(groups) for block in group}
    between: nx.DiGraph[int] = nx.DiGraph()
    between.add_nodes_from(range(len(groups)))
    between.add_edges_from(
        (group_of[u], group_of[v]) for u, v in problem.edges if group_of[u] != group_of[v]
    )
    condensed = nx.condensation(between)
    members: dict[int, list[int]] = defaultdict(list)
    for at, group in enumerate(groups):
        members[condensed.graph["mapping"][at]] += group
    order = nx.lexicographical_topological_sort(condensed, key=lambda at: min(members[at]))
    return [sorted(members[at]) for at in order]


def depth_first_order(graph: "nx.DiGraph[int]") -> list[int]:
    """A topological order that follows one branch to its end before the next.

    So that few tensors are open at a time.
    """
    waiting = {node: graph.in_degree(node) for node in graph}
    stack = sorted((node for node in graph if waiting[node] == 0), reverse=True)
    order = []
    while stack:
        node = stack.pop()
        order.append(node)
        for successor in graph.successors(node):
            waiting[successor] -= 1
            if waiting[successor] == 0:
                stack.append(successor)
    return order


def needed_edges(edges: set[tuple[int, int]], count: int) -> frozenset[tuple[int, int]]:
    """The transitive reduction of edges that all go to a higher number.

    Sets of ancestors are the bits of one integer each, which is quicker by far than a search from
    every node.
    """
    sources: list[list[int]] = [[] for _ in range(count)]
    for u, v in edges:
        sources[v].append(u)
    ancestors = [0] * count
    needed = []
    for v in range(count):
        above = 0
        # A nearer one first: what it descends from needs no edge of its own.
        for u in sorted(sources[v], reverse=True):
            if not above >> u & 1:
                needed.append((u, v))
                above |= ancestors[u] | 1 << u
        ancestors[v] = above
    return frozenset(needed)


def around_cuts(problem: Problem, stages: Stages, limit: int) -> tuple[Problem, Members]:
    """About `limit` blocks: those near the cuts of a placement stay single, others merge into runs.

    A third of a stage's share of the limit stays single at each of its ends, and its inner blocks
    make as many runs. Lossy: the result's bound holds for itself only.
    """
    near = max(2, limit // (3 * len(problem.stage_devices)))
    groups: Members = []
    for stage in range(len(problem.stage_devices)):
        blocks = [block for block in range(len(problem.blocks)) if stages[block] == stage]
        if len(blocks) <= 2 * near:
            groups += [[block] for block in blocks]
            continue
        inner = blocks[near:-near]
        length = -(-len(inner) // near)
        groups += [[block] for block in blocks[:near]]
        groups += [inner[at : at + length] for at in range(0, len(inner), length)]
        groups += [[block] for block in blocks[-near:]]
    merged = ordered(problem, groups)
    return contract(problem, merged), merged
