"""The integer program, written with PuLP.

y[v,s] = 1   block v lies on stage s or earlier;  y[v,last] = 1
x[v,s] = y[v,s] - y[v,s-1]
y[v,s] <= y[v,s+1]            y[v,s] <= y[u,s]  for every edge u -> v
y[v,s] <= y[u,s-1]            where u is split from v;       y[v,s] = 1, y[v,s-1] = 0  where v is pinned to s

relay     cross[t,s] >= y[source,s] - y[consumer,s]       tensor t crosses between s and s+1, once; and the other way
                                                          round where the consumer may come first
direct    leave[t,s] >= x[source,s] - x[consumer,s]       t is used elsewhere than on its own stage s
          arrive[t,s] >= x[consumer,s] - x[source,s]      t is used on s and made elsewhere

load[s] = sum_v seconds[v,s] x[v,s] + sum_t seconds[t,s] (transfers of t at s) <= T        minimise T
fixed + in_flight (saved + received) + transient <= capacity       on every stage
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import pulp

from pipecut.compiler.partition.problem import Problem, transfer_seconds

MIB = 2.0**20


@dataclass(frozen=True)
class Program:
    """The model and its variables; `scale` is what times are divided by."""

    model: Any
    y: dict[tuple[int, int], Any]
    transfers: list[tuple[Any, int, int, str]]
    hosted: dict[tuple[int, int], Any]
    transient: list[Any]
    bottleneck: Any
    scale: float


@dataclass(frozen=True)
class _Traffic:
    """Terms of each stage's load, and of what it receives: (variable, seconds or bytes)."""

    load: dict[int, list[tuple[Any, float]]]
    received: dict[int, list[tuple[Any, float]]]
    variables: list[tuple[Any, int, int, str]]


def build(problem: Problem) -> Program:
    """Write the program. Times are divided by `scale`, bytes by 2**20, so that numbers stay near one."""
    stages = range(len(problem.slots))
    last = len(problem.slots) - 1
    blocks = range(len(problem.blocks))
    total = sum(min(b.seconds.values()) for b in problem.blocks)
    scale = max(total / len(problem.slots), 1e-12)
    model = pulp.LpProblem("partition", pulp.LpMinimize)
    bottleneck = pulp.LpVariable("T", 0)
    model += bottleneck
    y: dict[tuple[int, int], Any] = {(v, s): pulp.LpVariable(f"y_{v}_{s}", cat="Binary") for v in blocks for s in range(last)}
    y |= {(v, last): 1 for v in blocks}
    for v in blocks:
        for s in range(last - 1):
            model += y[v, s] <= y[v, s + 1]
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
        for s in stages[1:]:
            model += y[v, s] <= y[u, s - 1]
    x = {(v, s): y[v, s] - (y[v, s - 1] if s else 0) for v in blocks for s in stages}
    traffic = _relayed(problem, model, y) if problem.comm == "relay" else _direct(problem, model, x)
    hosted = _hosted(problem, model, x)
    transient = [pulp.LpVariable(f"transient_{s}", 0) for s in stages]
    for s in stages:
        slot = problem.slots[s]
        if problem.comm == "relay":
            # A rank without a stage could not relay.
            model += pulp.lpSum(x[v, s] for v in blocks) >= 1
        load = [b.seconds[slot.kind] / scale * x[v, s] for v, b in enumerate(problem.blocks) if b.seconds[slot.kind]]
        load += [seconds / scale * variable for variable, seconds in traffic.load[s] if seconds]
        model += pulp.lpSum(load) <= bottleneck
        if _all_fits(problem, s):
            continue
        for v, block in enumerate(problem.blocks):
            if block.transient_bytes:
                model += transient[s] >= block.transient_bytes / MIB * x[v, s]
        used = [transient[s]]
        if slot.in_flight:
            kept = slot.in_flight / MIB
            used += [kept * b.saved_bytes * x[v, s] for v, b in enumerate(problem.blocks) if b.saved_bytes]
            used += [kept * size * variable for variable, size in traffic.received[s] if size]
        for p, shared in enumerate(problem.shared):
            if shared.bytes:
                used.append(shared.bytes / MIB * (hosted[p, s] if (p, s) in hosted else x[shared.users[0], s]))
        model += pulp.lpSum(used) <= slot.capacity / MIB
    return Program(model, y, traffic.variables, hosted, transient, bottleneck, scale)


def _all_fits(problem: Problem, stage: int) -> bool:
    """Memory cannot bind on a stage that would hold everything."""
    slot = problem.slots[stage]
    kept = sum(b.saved_bytes for b in problem.blocks) + sum(c.forward_bytes for c in problem.crossings)
    transient = max((b.transient_bytes for b in problem.blocks), default=0)
    return sum(s.bytes for s in problem.shared) + slot.in_flight * kept + transient <= slot.capacity


def _relayed(problem: Problem, model: Any, y: dict[tuple[int, int], Any]) -> _Traffic:
    traffic = _Traffic(defaultdict(list), defaultdict(list), [])
    backwards = any(consumer < c.source for c in problem.crossings for consumer in c.consumers)
    for t, crossing in enumerate(problem.crossings):
        for s in range(len(problem.slots) - 1):
            cross = pulp.LpVariable(f"cross_{t}_{s}", 0, 1)
            for consumer in crossing.consumers:
                model += cross >= y[crossing.source, s] - y[consumer, s]
                if backwards:
                    model += cross >= y[consumer, s] - y[crossing.source, s]
            seconds = transfer_seconds(problem, crossing, s)
            traffic.load[s].append((cross, seconds))
            traffic.load[s + 1].append((cross, seconds))
            # Where the direction is open, both ends are taken to hold what crosses.
            for stage in (s, s + 1) if backwards else (s + 1,):
                traffic.received[stage].append((cross, crossing.forward_bytes))
            traffic.variables.append((cross, t, s, "cross"))
    return traffic


def _direct(problem: Problem, model: Any, x: dict[tuple[int, int], Any]) -> _Traffic:
    traffic = _Traffic(defaultdict(list), defaultdict(list), [])
    for t, crossing in enumerate(problem.crossings):
        for s in range(len(problem.slots)):
            leave, arrive = pulp.LpVariable(f"leave_{t}_{s}", 0, 1), pulp.LpVariable(f"arrive_{t}_{s}", 0, 1)
            for consumer in crossing.consumers:
                model += leave >= x[crossing.source, s] - x[consumer, s]
                model += arrive >= x[consumer, s] - x[crossing.source, s]
            seconds = transfer_seconds(problem, crossing, s)
            traffic.load[s] += [(leave, seconds), (arrive, seconds)]
            traffic.received[s].append((arrive, crossing.forward_bytes))
            traffic.variables.extend([(leave, t, s, "leave"), (arrive, t, s, "arrive")])
    return traffic


def _hosted(problem: Problem, model: Any, x: dict[tuple[int, int], Any]) -> dict[tuple[int, int], Any]:
    hosted = {}
    for p, shared in enumerate(problem.shared):
        if len(shared.users) < 2 or not shared.bytes:
            continue
        for s in range(len(problem.slots)):
            hosted[p, s] = pulp.LpVariable(f"hosted_{p}_{s}", 0, 1)
            for user in shared.users:
                model += hosted[p, s] >= x[user, s]
    return hosted


def start_values(problem: Problem, program: Program, stages: list[int], bottleneck: float) -> dict[str, float]:
    """Every variable's value for a known placement, by name."""
    values = {program.bottleneck.name: bottleneck / program.scale}
    for (v, s), variable in program.y.items():
        if not isinstance(variable, int):
            values[variable.name] = float(stages[v] <= s)
    for variable, t, s, kind in program.transfers:
        own, using = stages[problem.crossings[t].source], {stages[c] for c in problem.crossings[t].consumers}
        if kind == "cross":
            values[variable.name] = float(min(own, *using) <= s < max(own, *using))
        elif kind == "leave":
            values[variable.name] = float(own == s and bool(using - {s}))
        else:
            values[variable.name] = float(own != s and s in using)
    for (p, s), variable in program.hosted.items():
        values[variable.name] = float(s in {stages[u] for u in problem.shared[p].users})
    for s, variable in enumerate(program.transient):
        here = [b.transient_bytes for b, stage in zip(problem.blocks, stages, strict=True) if stage == s]
        values[variable.name] = max(here, default=0) / MIB
    return values
