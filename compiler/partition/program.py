"""The integer program, written with PuLP.

y[v,s] = 1   block v lies on stage s or earlier;  y[v,last] = 1
x[v,s] = y[v,s] - y[v,s-1]
y[v,s] <= y[v,s+1]            y[v,s] <= y[u,s]  for every edge u -> v
cross[t,s] >= y[source,s] - y[consumer,s]       tensor t crosses from s to s+1, once
load[s] = sum_v seconds[v,s] x[v,s] + sum_t seconds[t] (cross[t,s-1] + cross[t,s]) <= T        minimise T
fixed + in_flight (saved + received) + transient <= capacity       on every stage
"""

from dataclasses import dataclass
from typing import Any

import pulp

from pipecut.compiler.partition.problem import Problem, boundary_seconds


@dataclass(frozen=True)
class Program:
    """The model and its variables: y by (block, stage), cross by (tensor, boundary), hosted by (parameter, stage)."""

    model: Any
    y: dict[tuple[int, int], Any]
    cross: dict[tuple[int, int], Any]
    hosted: dict[tuple[int, int], Any]
    transient: list[Any]
    bottleneck: Any
    scale: float


def build(problem: Problem) -> Program:
    """Write the program. Times are divided by `scale`, bytes by 2**20, so that numbers stay near one."""
    stages = range(len(problem.slots))
    last = len(problem.slots) - 1
    total = sum(min(b.seconds.values()) for b in problem.blocks)
    scale = max(total / len(problem.slots), 1e-12)
    model = pulp.LpProblem("partition", pulp.LpMinimize)
    bottleneck = pulp.LpVariable("T", 0)
    model += bottleneck
    y: dict[tuple[int, int], Any] = {}
    for v in range(len(problem.blocks)):
        for s in range(last):
            y[v, s] = pulp.LpVariable(f"y_{v}_{s}", cat="Binary")
        y[v, last] = 1
    for v in range(len(problem.blocks)):
        for s in range(last - 1):
            model += y[v, s] <= y[v, s + 1]
    for u, v in sorted(problem.edges):
        for s in range(last):
            model += y[v, s] <= y[u, s]
    cross = _crossings(problem, model, y)
    hosted = _hosted(problem, model, y)
    transient = [pulp.LpVariable(f"transient_{s}", 0) for s in stages]
    mib = 2.0**20
    for s in stages:
        slot = problem.slots[s]
        x = [y[v, s] - (y[v, s - 1] if s else 0) for v in range(len(problem.blocks))]
        model += pulp.lpSum(x) >= 1
        load = [b.seconds[slot.kind] / scale * x[v] for v, b in enumerate(problem.blocks)]
        for t, crossing in enumerate(problem.crossings):
            for boundary in (s - 1, s):
                if 0 <= boundary < last:
                    load.append(boundary_seconds(problem, crossing, boundary) / scale * cross[t, boundary])
        model += pulp.lpSum(load) <= bottleneck
        for v, block in enumerate(problem.blocks):
            if block.transient_bytes:
                model += transient[s] >= block.transient_bytes / mib * x[v]
        bytes_ = [transient[s]]
        bytes_ += [slot.in_flight * b.saved_bytes / mib * x[v] for v, b in enumerate(problem.blocks) if b.saved_bytes]
        if s:
            bytes_ += [slot.in_flight * c.forward_bytes / mib * cross[t, s - 1] for t, c in enumerate(problem.crossings)]
        for p, shared in enumerate(problem.shared):
            holder = hosted[p, s] if (p, s) in hosted else x[shared.users[0]]
            bytes_.append(shared.bytes / mib * holder)
        model += pulp.lpSum(bytes_) <= slot.capacity / mib
    return Program(model, y, cross, hosted, transient, bottleneck, scale)


def _crossings(problem: Problem, model: Any, y: dict[tuple[int, int], Any]) -> dict[tuple[int, int], Any]:
    cross = {}
    for t, crossing in enumerate(problem.crossings):
        for s in range(len(problem.slots) - 1):
            cross[t, s] = pulp.LpVariable(f"cross_{t}_{s}", 0, 1)
            for consumer in crossing.consumers:
                model += cross[t, s] >= y[crossing.source, s] - y[consumer, s]
    return cross


def _hosted(problem: Problem, model: Any, y: dict[tuple[int, int], Any]) -> dict[tuple[int, int], Any]:
    hosted = {}
    for p, shared in enumerate(problem.shared):
        if len(shared.users) < 2:
            continue
        for s in range(len(problem.slots)):
            hosted[p, s] = pulp.LpVariable(f"hosted_{p}_{s}", 0, 1)
            for user in shared.users:
                model += hosted[p, s] >= y[user, s] - (y[user, s - 1] if s else 0)
    return hosted


def start_values(problem: Problem, program: Program, stages: list[int], bottleneck: float) -> dict[str, float]:
    """Every variable's value for a known placement, by name."""
    values = {program.bottleneck.name: bottleneck / program.scale}
    for (v, s), variable in program.y.items():
        if not isinstance(variable, int):
            values[variable.name] = float(stages[v] <= s)
    for (t, s), variable in program.cross.items():
        crossing = problem.crossings[t]
        last = max(stages[c] for c in crossing.consumers)
        values[variable.name] = float(stages[crossing.source] <= s < last)
    for (p, s), variable in program.hosted.items():
        values[variable.name] = float(s in {stages[u] for u in problem.shared[p].users})
    for s, variable in enumerate(program.transient):
        here = [b.transient_bytes for b, stage in zip(problem.blocks, stages, strict=True) if stage == s]
        values[variable.name] = max(here, default=0) / 2.0**20
    return values
