"""The integer program, written with PuLP.

y[v,s] = 1   block v lies on stage s or earlier;  y[v,last] = 1
x[v,s] = y[v,s] - y[v,s-1]
y[v,s] <= y[v,s+1]            y[v,s] <= y[u,s]    for every edge u -> v
y[v,s] <= y[u,s-1]            where u is split from v
y[v,s] = 1, y[v,s-1] = 0      where v is pinned to s

relay     cross[t,s] >= y[source,s] - y[consumer,s]     tensor t crosses between s and s+1, once;
                                                        and the other way round where the consumer
                                                        may come first
direct    leave[t,s] >= x[source,s] - x[consumer,s]     t is used elsewhere than on its stage s
          arrive[t,s] >= x[consumer,s] - x[source,s]    t is used on s and made elsewhere

load[d] = sum_v seconds[v,d] x[v,d] + sum_t seconds[t,d] (transfers of t at d) + again[d] <= T
          and seconds[p,d] hosted[p,s] of what a stage computes where it has one of its users;
          minimise T
again[d] >= sum_v forward[v,d] x[v,d] - U (1 - r[d])           device d recomputes where r[d] = 1
fixed + in_flight (saved + received) + transient <= capacity + M r[d]       on every device
fixed + saved + in_flight received + transient <= capacity                  where it may recompute

x[v,d] sums the stages of device d. U is the least bottleneck known, so that nothing better is cut
off; M is the most that blocks of so many seconds save. The rows of memory are in memory_rows.py.
"""

from dataclasses import dataclass
from typing import Any, Literal

import pulp

from pipecut.compiler.partition.problem import Problem
from pipecut.compiler.partition.program.memory_rows import add_memory_rows, everything_fits
from pipecut.compiler.partition.program.transfers import Traffic, direct_traffic, relayed_traffic
from pipecut.compiler.partition.program.variables import Program, Recomputing


def build(problem: Problem, incumbent: float = float("inf"), balance: bool = False) -> Program:
    """Write the program; the `incumbent` is the least bottleneck known, in seconds.

    With `balance` it has how full devices are. Times are divided by `scale`, bytes by 2**20, so
    that numbers stay near one.
    """
    program = _with_positions(problem, balance)
    model = program.model
    _add_constraints(problem, program)
    devices = _on_devices(problem, program)
    if problem.comm == "relay":
        traffic = relayed_traffic(problem, program)
    else:
        traffic = direct_traffic(problem, program, devices)
    _add_hosted(problem, program)
    if problem.comm == "relay":
        for stage in range(len(problem.stage_devices)):
            # A rank without a stage could not relay.
            blocks = range(len(problem.blocks))
            model += pulp.lpSum(program.on[block, stage] for block in blocks) >= 1
    for device, stages in problem.stages_of_devices().items():
        row = _DeviceRow(problem, program, devices, device, stages)
        load = row.seconds("seconds") + row.transfers(traffic) + row.shared("seconds")
        forward = row.seconds("forward_seconds") + row.shared("forward_seconds")
        if problem.recompute == "always":
            load += forward
        if balance or not everything_fits(problem, stages):
            if problem.recompute == "auto":
                load.append(row.recomputed(forward, incumbent))
            add_memory_rows(problem, program, traffic, device, incumbent)
        model += pulp.lpSum(load) <= program.bottleneck
    return program


def _with_positions(problem: Problem, balance: bool) -> Program:
    """The program with its objective and the positions of the blocks: y and x."""
    blocks, last = range(len(problem.blocks)), len(problem.stage_devices) - 1
    work = sum(min(block.seconds.values()) for block in problem.blocks)
    # Seconds of an even stage; a floor where nothing takes any time.
    scale = max(work / (last + 1), 1e-12)
    model: Any = pulp.LpProblem("partition", pulp.LpMinimize)
    bottleneck = model.add_variable("T", 0)
    fullest = model.add_variable("fullest", 0, 1) if balance else 1
    model += bottleneck
    y: dict[tuple[int, int], Any] = {
        (v, s): model.add_variable(f"y_{v}_{s}", cat="Binary") for v in blocks for s in range(last)
    }
    y |= {(v, last): 1 for v in blocks}
    for v in blocks:
        for s in range(last - 1):
            model += y[v, s] <= y[v, s + 1]
    x = {(v, s): y[v, s] - (y[v, s - 1] if s else 0) for v in blocks for s in range(last + 1)}
    return Program(model, y, x, bottleneck, fullest, scale)


def _add_constraints(problem: Problem, program: Program) -> None:
    """What comes first, what is pinned, and what is split."""
    model, y, last = program.model, program.up_to, len(problem.stage_devices) - 1
    for u, v in sorted(problem.edges):
        for s in range(last):
            model += y[v, s] <= y[u, s]
    for v, stage in problem.pins:
        # The last stage's y is the constant 1 already.
        if stage < last:
            model += y[v, stage] == 1
        if stage:
            model += y[v, stage - 1] == 0
    for u, v in problem.splits:
        model += y[v, 0] == 0
        for s in range(1, last + 1):
            model += y[v, s] <= y[u, s - 1]


def _on_devices(problem: Problem, program: Program) -> dict[tuple[int, int], Any]:
    """x[v, d]: 1 where block v stands on device d."""
    if not problem.devices:
        return program.on
    return {
        (block, device): pulp.lpSum(program.on[block, stage] for stage in stages)
        for block in range(len(problem.blocks))
        for device, stages in problem.stages_of_devices().items()
    }


def _add_hosted(problem: Problem, program: Program) -> None:
    """hosted[p, s] >= x[user, s] for each of several users of p."""
    model = program.model
    for index, shared in enumerate(problem.shared):
        weighs = shared.bytes or shared.seconds or shared.saved_bytes
        if len(shared.users) < 2 or not weighs:
            continue
        for stage in range(len(problem.stage_devices)):
            hosted = model.add_variable(f"hosted_{index}_{stage}", 0, 1)
            program.hosted[index, stage] = hosted
            for user in shared.users:
                model += hosted >= program.on[user, stage]


@dataclass(frozen=True)
class _DeviceRow:
    """The terms of one device's load, divided by the program's scale; `on_device` is x[v, d]."""

    problem: Problem
    program: Program
    on_device: dict[tuple[int, int], Any]
    device: int
    stages: list[int]

    @property
    def kind(self) -> str:
        """The kind of the device."""
        return self.problem.stage_devices[self.stages[0]].kind

    def seconds(self, field: Literal["seconds", "forward_seconds"]) -> list[Any]:
        """Terms of the blocks."""
        terms = []
        for v, block in enumerate(self.problem.blocks):
            seconds: float = getattr(block, field).get(self.kind, 0.0)
            if seconds:
                terms.append(seconds / self.program.scale * self.on_device[v, self.device])
        return terms

    def transfers(self, traffic: Traffic) -> list[Any]:
        """Terms of the tensors that it sends and receives."""
        terms = traffic.load[self.device]
        return [term.amount / self.program.scale * term.variable for term in terms if term.amount]

    def shared(self, field: Literal["seconds", "forward_seconds"]) -> list[Any]:
        """Terms of what its stages compute for themselves."""
        terms = []
        for index, shared in enumerate(self.problem.shared):
            seconds: float = getattr(shared, field).get(self.kind, 0.0)
            if seconds:
                terms += [
                    seconds / self.program.scale * self.program.has_user(self.problem, index, stage)
                    for stage in self.stages
                ]
        return terms

    def recomputed(self, forward: list[Any], incumbent: float) -> Any:
        """again[d] >= forward - U (1 - r[d])."""
        model = self.program.model
        chosen = model.add_variable(f"recompute_{self.device}", cat="Binary")
        recomputed = model.add_variable(f"again_{self.device}", 0)
        self.program.recompute[self.device] = Recomputing(chosen, recomputed)
        limit = min(incumbent, self._all_forward_seconds()) / self.program.scale
        model += recomputed >= pulp.lpSum(forward) - limit * (1 - chosen)
        return recomputed

    def _all_forward_seconds(self) -> float:
        """The most forward seconds that its stages may have."""
        blocks, shared = self.problem.blocks, self.problem.shared
        for_itself = sum(row.forward_seconds.get(self.kind, 0.0) for row in shared)
        of_blocks = sum(block.forward_seconds.get(self.kind, 0.0) for block in blocks)
        return of_blocks + len(self.stages) * for_itself
