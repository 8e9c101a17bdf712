"""A problem -> the stage of each block, and what is proven of it.

The chain is cut exactly along a few topological orders. Where that is within the gap of the bound
it is the answer; else the integer program improves on it: over all blocks where it can be proven,
else over the blocks around the cuts. Ties are broken last.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import networkx as nx

from pipecut.compiler.partition.bounds.closure_bound import closure_bound
from pipecut.compiler.partition.bounds.memory_bound import memory_bound
from pipecut.compiler.partition.bounds.work_bound import work_bound
from pipecut.compiler.partition.break_ties import break_ties
from pipecut.compiler.partition.chain.chain import chain_cuts
from pipecut.compiler.partition.contract import contract, expand
from pipecut.compiler.partition.explain import OF_JOB, InFlightPerStage, Remedies, explain
from pipecut.compiler.partition.load import bottleneck
from pipecut.compiler.partition.memory import evenly_shared, fits
from pipecut.compiler.partition.placement import Certificate
from pipecut.compiler.partition.problem import Problem, Stages
from pipecut.compiler.partition.program.program import build
from pipecut.compiler.partition.program.solver import SOLVERS, Limits, Solution, solve
from pipecut.compiler.partition.program.start import start_values
from pipecut.compiler.partition.reduce import around_cuts, depth_first_order, lossless
from pipecut.errors import InfeasibleError, UserFileError

# With more block-stage pairs than this the program is too slow to be worth its proof.
LARGEST_PROGRAM = 12_000
# With more than this, where a placement is within GOOD_ENOUGH of a bound over all orders.
WORTH_PROVING = 3000
# As many pairs around the cuts of a larger problem are solved in a second or two.
AROUND_CUTS = 2000
AROUND_SECONDS = 5.0
# Within this of the bound a large problem is not worth the program around its cuts.
GOOD_ENOUGH = 0.01
PROVEN = 1e-6
# The program gets some time even where the bounds took all of it.
LEAST_SECONDS = 0.1


@dataclass(frozen=True)
class SolverOptions:
    """highs or cbc, its time limit in seconds, and the relative gap at which it may stop.

    A `rule` returns each block's stage instead of all that: what others do, to compare with.
    Raises UserFileError for another solver, and for numbers below 0.
    """

    solver: str = "highs"
    time_limit: float = 30.0
    gap: float = 1e-4
    rule: Callable[[Problem], Stages] | None = None

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise UserFileError(f"solver {self.solver!r}: must be {' or '.join(SOLVERS)}")
        for name in ("time_limit", "gap"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not value >= 0:
                raise UserFileError(f"{name} {value!r}: must be a number of 0 or more")


def place(
    problem: Problem,
    options: SolverOptions,
    in_flight_per_stage: InFlightPerStage,
    remedies: Remedies = OF_JOB,
) -> tuple[Stages, Certificate]:
    """Stage of each block and the certificate. Raises InfeasibleError, which names `remedies`."""
    begin = time.perf_counter()
    if options.rule is not None:
        return _by_rule(problem, options.rule, begin)
    small, members = lossless(problem)
    search = _Search(small, options, begin)
    search.cut_chains()
    search.run_program()
    stages = search.best_that_fits()
    if stages is None:
        raise explain(problem, search.infeasible, in_flight_per_stage, remedies)
    remaining = options.time_limit - (time.perf_counter() - begin)
    stages = break_ties(small, stages, options.solver, remaining)
    stages = expand(stages, members, len(problem.blocks))
    objective = bottleneck(problem, stages)
    bound = min(search.bound, objective)
    gap = (objective - bound) / objective if objective > 0 else 0.0
    seconds = time.perf_counter() - begin
    return stages, Certificate(objective, bound, gap, gap <= PROVEN, search.solver, seconds)


def _by_rule(
    problem: Problem, rule: Callable[[Problem], Stages], begin: float
) -> tuple[Stages, Certificate]:
    stages = rule(problem)
    if not fits(problem, stages):
        name = rule.__name__.replace("_", " ")
        raise InfeasibleError(f"{name}: what it puts on some device does not fit there")
    objective, seconds = bottleneck(problem, stages), time.perf_counter() - begin
    return stages, Certificate(objective, 0.0, 1.0, False, rule.__name__, seconds)


@dataclass(frozen=True)
class _Candidate:
    stages: Stages
    seconds: float


class _Search:
    """The placements found so far, and the largest bound that is proven."""

    def __init__(self, problem: Problem, options: SolverOptions, begin: float) -> None:
        self.problem, self.options, self.begin = problem, options, begin
        self.candidates: list[_Candidate] = []
        self.bound = 0.0
        self.solver = "chain over a topological order"
        self.infeasible = False

    @property
    def best(self) -> Stages | None:
        """The quickest placement found."""
        candidate = min(self.candidates, key=lambda placed: placed.seconds, default=None)
        return candidate.stages if candidate is not None else None

    @property
    def least(self) -> float:
        """Its bottleneck; infinite without one."""
        return min((candidate.seconds for candidate in self.candidates), default=float("inf"))

    def best_that_fits(self) -> Stages | None:
        """The quickest placement found that fits every device and obeys what is asked."""
        fitting = [c for c in self.candidates if fits(self.problem, c.stages)]
        candidate = min(fitting, key=lambda placed: placed.seconds, default=None)
        return candidate.stages if candidate is not None else None

    def cut_chains(self) -> None:
        """Chains along two orders, and bounds, each where what came before is not good enough."""
        self.bound = work_bound(self.problem)
        self._add(chains(self.problem))
        if not self._is_within(self.options.gap):
            bound = closure_bound(self.problem, self.bound, self.least)
            self.solver += ", bound over all orders" if bound > self.bound else ""
            self.bound = bound
        if not self._is_within(GOOD_ENOUGH):
            self._add(branch_chains(self.problem))
        if self.candidates and self._excess() > GOOD_ENOUGH * self.least:
            self.bound = max(self.bound, memory_bound(self.problem, self.least))
        self.infeasible = self.bound == float("inf")

    def run_program(self) -> None:
        """The integer program, over all blocks or around the cuts, where it may find better."""
        is_good = self.candidates and self._excess() <= self.options.gap * self.least
        if self.infeasible or is_good:
            return
        elapsed = time.perf_counter() - self.begin
        remaining = max(LEAST_SECONDS, self.options.time_limit - elapsed)
        pairs = len(self.problem.blocks) * len(self.problem.stage_devices)
        is_close = self._excess() <= GOOD_ENOUGH * self.least
        is_certified = self.problem.comm == "relay" and is_close
        if pairs <= (WORTH_PROVING if is_certified else LARGEST_PROGRAM):
            self._solve_whole(remaining)
        elif self.candidates and not is_close:
            self._solve_around_cuts(min(remaining, AROUND_SECONDS))

    def _solve_whole(self, seconds: float) -> None:
        solution = _solve(self.problem, self.best, self._limits(seconds))
        self.bound = max(self.bound, solution.bound)
        self.solver, self.infeasible = solution.solver, solution.infeasible
        if solution.stages is not None:
            self._add([solution.stages])

    def _solve_around_cuts(self, seconds: float) -> None:
        """The result's bound holds for the smaller problem only."""
        stages = self.best
        assert stages is not None
        blocks = AROUND_CUTS // len(self.problem.stage_devices)
        merged, members = around_cuts(self.problem, stages, blocks)
        start = [stages[group[0]] for group in members]
        solution = _solve(merged, start, self._limits(seconds))
        self.solver = f"{self.solver}, {solution.solver} around its cuts"
        if solution.stages is not None:
            self._add([expand(solution.stages, members, len(self.problem.blocks))])

    def _add(self, placements: list[Stages]) -> None:
        self.candidates += [
            _Candidate(stages, bottleneck(self.problem, stages)) for stages in placements
        ]

    def _excess(self) -> float:
        """Seconds above the bound; infinite without a placement."""
        return self.least - self.bound

    def _is_within(self, gap: float) -> bool:
        """Whether a placement is within a relative gap of the bound."""
        if not self.candidates:
            return False
        return self.least <= 0 or self._excess() / self.least <= gap

    def _limits(self, seconds: float) -> Limits:
        return Limits(self.options.solver, seconds, self.options.gap)


def chains(problem: Problem) -> list[Stages]:
    """The best chains along the order of the blocks."""
    cuts = _chains_of_devices(problem) if problem.devices else [chain_cuts(problem)]
    # With direct transfers a chain may not fit because of what comes back to it.
    return [stages for stages in cuts if stages is not None and fits(problem, stages)]


def _chains_of_devices(problem: Problem) -> list[Stages | None]:
    """With several stages on a device: even stages, or where some may stay empty, one on each."""
    cuts = [chain_cuts(replace(problem, devices=())), chain_cuts(evenly_shared(problem))]
    devices = tuple(dict.fromkeys(problem.devices))
    begins_with_each = problem.devices[: len(devices)] == devices
    if problem.comm == "direct" and not problem.pins and begins_with_each:
        first = problem.stage_devices[: len(devices)]
        cuts.append(chain_cuts(replace(problem, devices=(), stage_devices=first)))
    return cuts


def branch_chains(problem: Problem) -> list[Stages]:
    """The best chain along an order that follows branches to their ends, where it is another."""
    graph: nx.DiGraph[int] = nx.DiGraph(sorted(problem.edges))
    graph.add_nodes_from(range(len(problem.blocks)))
    order = depth_first_order(graph)
    if problem.devices or order == sorted(order):
        return []
    members = [[block] for block in order]
    chain = chain_cuts(contract(problem, members))
    if chain is None:
        return []
    stages = expand(chain, members, len(order))
    return [stages] if fits(problem, stages) else []


def _solve(problem: Problem, start: Stages | None, limits: Limits) -> Solution:
    begin = time.perf_counter()
    if start is None:
        return solve(problem, build(problem), limits, None)
    incumbent = bottleneck(problem, start) * (1 + PROVEN)
    program = build(problem, incumbent)
    solution = solve(problem, program, limits, start_values(problem, program, start))
    stages = solution.stages
    if stages is None or bottleneck(problem, stages) <= solution.objective * (1 + PROVEN):
        return solution
    # HiGHS 1.16 takes some starts through its presolve wrongly, and then ends below what its own
    # solution costs.
    remaining = max(LEAST_SECONDS, limits.seconds - (time.perf_counter() - begin))
    return solve(problem, build(problem, incumbent), replace(limits, seconds=remaining), None)
