"""A problem -> the stage of each block, and what is proven of it.

The chain is cut exactly along a few topological orders. Where that is within the gap of the bound it is the answer; else the
integer program improves on it: over all blocks where it can be proven, otherwise over the blocks around the cuts. Ties are
broken last.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import networkx as nx

from pipecut.compiler.partition.bounds.closure import closure_bound
from pipecut.compiler.partition.bounds.linear import memory_bound, work_bound
from pipecut.compiler.partition.break_ties import break_ties
from pipecut.compiler.partition.chain.chain import chain_cuts
from pipecut.compiler.partition.contract import contract, expand
from pipecut.compiler.partition.explain import Flights, explain
from pipecut.compiler.partition.load import bottleneck
from pipecut.compiler.partition.memory import evenly_shared, fits
from pipecut.compiler.partition.placement import Certificate
from pipecut.compiler.partition.problem import Problem
from pipecut.compiler.partition.program.program import build, start_values
from pipecut.compiler.partition.program.solver import Solution, solve
from pipecut.compiler.partition.reduce import around_cuts, depth_first_order, lossless
from pipecut.errors import InfeasibleError

# Beyond this many block-stage pairs the program is too slow to be worth its proof.
LARGEST_PROGRAM = 12_000
# Beyond these, where a placement is within GOOD_ENOUGH of a bound over all orders.
WORTH_PROVING = 3000
# As many around the cuts of a larger problem are solved in a second or two.
AROUND_CUTS = 2000
AROUND_SECONDS = 5.0
# Within this of the bound a large problem is not worth the program around its cuts.
GOOD_ENOUGH = 0.01
PROVEN = 1e-6


@dataclass(frozen=True)
class SolverOptions:
    """highs or cbc, its time limit in seconds, and the relative gap at which it may stop.

    A `rule` gives each block's stage instead of all that: what others do, to compare with.
    """

    solver: str = "highs"
    time_limit: float = 30.0
    gap: float = 1e-4
    rule: Callable[[Problem], list[int]] | None = None


def place(
    problem: Problem, solving: SolverOptions, in_flight_per_stage: Flights
) -> tuple[list[int], Certificate]:
    """Stage of each block and the certificate. Raises InfeasibleError."""
    begin = time.perf_counter()
    if solving.rule is not None:
        ruled = solving.rule(problem)
        if not fits(problem, ruled):
            raise InfeasibleError(
                f"{solving.rule.__name__.replace('_', ' ')}: what it puts on some device does not fit there"
            )
        return ruled, Certificate(
            bottleneck(problem, ruled),
            0.0,
            1.0,
            False,
            solving.rule.__name__,
            time.perf_counter() - begin,
        )
    gap = solving.gap
    small, members = lossless(problem)
    bound, name = work_bound(small), "chain over a topological order"
    candidates = _chains(small)
    if not candidates or _gap(small, candidates, bound) > gap:
        known = bound
        bound = closure_bound(small, bound, _least(small, candidates))
        name += ", bound over all orders" if bound > known else ""
    if not candidates or _gap(small, candidates, bound) > GOOD_ENOUGH:
        candidates += _other_chains(small)
    best = min(candidates, key=lambda c: bottleneck(small, c), default=None)
    least = _least(small, candidates)
    if best is not None and least - bound > GOOD_ENOUGH * least:
        bound = max(bound, memory_bound(small, least))
    infeasible = bound == float("inf")
    if not infeasible and (best is None or least - bound > gap * least):
        left = max(0.1, solving.time_limit - (time.perf_counter() - begin))
        pairs = len(small.blocks) * len(small.stage_devices)
        certified = small.comm == "relay" and least - bound <= GOOD_ENOUGH * least
        if pairs <= (WORTH_PROVING if certified else LARGEST_PROGRAM):
            found = _solve(small, best, solving.solver, left, gap)
            bound, name, infeasible = max(bound, found.bound), found.name, found.infeasible
            candidates += [found.stages] if found.stages is not None else []
        elif best is not None and least - bound > GOOD_ENOUGH * least:
            merged, groups = around_cuts(small, best, AROUND_CUTS // len(small.stage_devices))
            start = [best[group[0]] for group in groups]
            found = _solve(merged, start, solving.solver, min(left, AROUND_SECONDS), gap)
            name = f"{name}, {found.name} around its cuts"
            candidates += (
                [expand(found.stages, groups, len(small.blocks))]
                if found.stages is not None
                else []
            )
    candidates = [c for c in candidates if fits(small, c)]
    if not candidates:
        raise explain(problem, infeasible, in_flight_per_stage)
    left = solving.time_limit - (time.perf_counter() - begin)
    stages = break_ties(
        small, min(candidates, key=lambda c: bottleneck(small, c)), solving.solver, left
    )
    stages = expand(stages, members, len(problem.blocks))
    objective = bottleneck(problem, stages)
    bound = min(bound, objective)
    relative = (objective - bound) / objective if objective > 0 else 0.0
    seconds = time.perf_counter() - begin
    return stages, Certificate(objective, bound, relative, relative <= PROVEN, name, seconds)


def _least(problem: Problem, candidates: list[list[int]]) -> float:
    return min((bottleneck(problem, stages) for stages in candidates), default=float("inf"))


def _gap(problem: Problem, candidates: list[list[int]], bound: float) -> float:
    least = _least(problem, candidates)
    return (least - bound) / least if least > 0 else 0.0


def _chains(problem: Problem) -> list[list[int]]:
    """The best chain along the order of the blocks."""
    chains = _chains_of_devices(problem) if problem.devices else [chain_cuts(problem)]
    # With direct transfers a chain may fit but for what comes back to it.
    return [chain for chain in chains if chain is not None and fits(problem, chain)]


def _other_chains(problem: Problem) -> list[list[int]]:
    """The best chain along an order that follows branches to their ends."""
    graph: nx.DiGraph[int] = nx.DiGraph(sorted(problem.edges))
    graph.add_nodes_from(range(len(problem.blocks)))
    order = depth_first_order(graph)
    if problem.devices or order == sorted(order):
        return []
    chain = chain_cuts(contract(problem, [[v] for v in order]))
    found = expand(chain, [[v] for v in order], len(order)) if chain is not None else None
    return [found] if found is not None and fits(problem, found) else []


def _chains_of_devices(problem: Problem) -> list[list[int] | None]:
    """With several stages on a device: even stages, and where they may stay empty, one stage a device."""
    results = [chain_cuts(replace(problem, devices=())), chain_cuts(evenly_shared(problem))]
    if problem.comm == "direct" and not problem.pins:
        first = tuple(dict.fromkeys(problem.devices))
        if problem.devices[: len(first)] == first:
            results.append(
                chain_cuts(
                    replace(problem, devices=(), stage_devices=problem.stage_devices[: len(first)])
                )
            )
    return results


def _solve(
    problem: Problem, start: list[int] | None, solver: str, time_limit: float, gap: float
) -> Solution:
    begin = time.perf_counter()
    most = bottleneck(problem, start) * (1 + PROVEN) if start is not None else float("inf")
    program = build(problem, most)
    values = start_values(problem, program, start) if start is not None else None
    found = solve(
        program, len(problem.blocks), len(problem.stage_devices), values, solver, time_limit, gap
    )
    if (
        values is None
        or found.stages is None
        or bottleneck(problem, found.stages) <= found.objective * (1 + 1e-6)
    ):
        return found
    # HiGHS 1.16 takes some starts through its presolve wrongly, and then ends below what its own solution costs.
    left = max(0.1, time_limit - (time.perf_counter() - begin))
    return solve(
        build(problem, most),
        len(problem.blocks),
        len(problem.stage_devices),
        None,
        solver,
        left,
        gap,
    )
