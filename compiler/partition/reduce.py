"""Smaller problems: merges that keep the optimum, and a lossy one around known cuts."""

from collections import defaultdict

import networkx as nx

from pipecut.compiler.partition.contract import contract
from pipecut.compiler.partition.load import transfer_seconds
from pipecut.compiler.partition.memory import peak_bytes
from pipecut.compiler.partition.problem import Problem


def lossless(problem: Problem) -> tuple[Problem, list[list[int]]]:
    """Merge a block into its only consumer, or that into it, where cutting between them never pays.

    u's only tensor has v as its only consumer, and v follows u. Take any placement with u and v apart.

    1. Moving u to v's stage takes time[u] and the tensor's transfers off, and puts time[u] and u's inputs on: v's stage
       gains nothing if transfer[u] >= time[u] + sum of transfer[inputs of u], and then no other stage does either.
    2. Moving v to u's stage: u's stage gains nothing if transfer[u] >= time[v] + transfer[outputs of v], when u is all that
       v takes.

    Only where memory cannot bind, transfers are direct, devices and links equal and nothing is told. Returns the problem and
    its members.
    """
    members = [[v] for v in range(len(problem.blocks))]
    everything = peak_bytes(problem, [0] * len(problem.blocks))[0]
    told = problem.pins or problem.splits or any(shared.seconds for shared in problem.shared)
    if (
        problem.comm != "direct"
        or len(set(problem.stage_devices)) > 1
        or everything > problem.stage_devices[0].capacity
        or told
    ):
        return problem, members
    while True:
        groups = _pairs(problem)
        if len(groups) == len(problem.blocks):
            return problem, members
        members = [[v for at in group for v in members[at]] for group in groups]
        problem = contract(problem, groups)


def _pairs(problem: Problem) -> list[list[int]]:
    """Blocks that may join, in a topological order of the groups; disjoint pairs only, so that each proof stands alone."""
    kind = problem.stage_devices[0].kind
    out: dict[int, list[int]] = defaultdict(list)
    into: dict[int, list[int]] = defaultdict(list)
    for t, tensor in enumerate(problem.tensors):
        out[tensor.source].append(t)
        for consumer in tensor.consumers:
            into[consumer].append(t)
    following: dict[int, list[int]] = defaultdict(list)
    preceding: dict[int, list[int]] = defaultdict(list)
    for u, v in problem.edges:
        following[u].append(v)
        preceding[v].append(u)
    cost = [transfer_seconds(problem, tensor, 0) for tensor in problem.tensors]
    partner: dict[int, int] = {}
    for u in range(len(problem.blocks)):
        if len(out[u]) != 1 or u in partner or len(following[u]) != 1:
            continue
        t = out[u][0]
        v = following[u][0]
        if problem.tensors[t].consumers != (v,) or v in partner:
            continue
        inputs = sum(cost[i] for i in into[u])
        outputs = sum(cost[o] for o in out[v])
        forward = cost[t] >= problem.blocks[u].seconds[kind] + inputs
        backward = (
            into[v] == [t]
            and preceding[v] == [u]
            and cost[t] >= problem.blocks[v].seconds[kind] + outputs
        )
        if forward or backward:
            partner[u], partner[v] = v, u
    alone_or_first = (u for u in range(len(problem.blocks)) if u <= partner.get(u, u))
    return ordered(problem, [[u, partner[u]] if u in partner else [u] for u in alone_or_first])


def ordered(problem: Problem, groups: list[list[int]]) -> list[list[int]]:
    """The groups in a topological order, with those on a cycle made one."""
    group_of = {v: at for at, group in enumerate(groups) for v in group}
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
    """A topological order that follows one branch to its end before the next, so that few tensors are open at a time."""
    waiting = {v: graph.in_degree(v) for v in graph}
    stack = sorted((v for v in graph if waiting[v] == 0), reverse=True)
    order = []
    while stack:
        v = stack.pop()
        order.append(v)
        for w in graph.successors(v):
            waiting[w] -= 1
            if waiting[w] == 0:
                stack.append(w)
    return order


def needed_edges(edges: set[tuple[int, int]], count: int) -> frozenset[tuple[int, int]]:
    """The transitive reduction of edges that all go to a higher number.

    Sets of ancestors are the bits of one integer each, which is quicker by far than a search from every node.
    """
    before: list[list[int]] = [[] for _ in range(count)]
    for u, v in edges:
        before[v].append(u)
    ancestors = [0] * count
    kept = []
    for v in range(count):
        above = 0
        # A nearer one first: what it descends from needs no edge of its own.
        for u in sorted(before[v], reverse=True):
            if not above >> u & 1:
                kept.append((u, v))
                above |= ancestors[u] | 1 << u
        ancestors[v] = above
    return frozenset(kept)


def around_cuts(problem: Problem, stages: list[int], limit: int) -> tuple[Problem, list[list[int]]]:
    """About `limit` blocks: those near the cuts of a placement stay single, the rest of each stage merges into runs.

    Lossy: the result's bound holds for itself only.
    """
    near = max(2, limit // (3 * len(problem.stage_devices)))
    groups: list[list[int]] = []
    order = sorted(range(len(problem.blocks)), key=lambda v: (stages[v], v))
    for stage in range(len(problem.stage_devices)):
        own = [v for v in order if stages[v] == stage]
        if len(own) <= 2 * near:
            groups += [[v] for v in own]
            continue
        inner = own[near:-near]
        length = -(-len(inner) // near)
        groups += [[v] for v in own[:near]]
        groups += [inner[at : at + length] for at in range(0, len(inner), length)]
        groups += [[v] for v in own[-near:]]
    merged = ordered(problem, groups)
    return contract(problem, merged), merged


def expand(stages: list[int], members: list[list[int]], count: int) -> list[int]:
    """A placement of groups as one of their members."""
    result = [0] * count
    for stage, group in zip(stages, members, strict=True):
        for v in group:
            result[v] = stage
    return result
