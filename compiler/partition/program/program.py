"""The integer program, written with PuLP.

y[v,s] = 1   block v lies on stage s or earlier;  y[v,last] = 1
x[v,s] = y[v,s] - y[v,s-1]
y[v,s] <= y[v,s+1]            y[v,s] <= y[u,s]  for every edge u -> v
y[v,s] <= y[u,s-1]            where u is split from v;       y[v,s] = 1, y[v,s-1] = 0  where v is pinned to s

relay     cross[t,s] >= y[source,s] - y[consumer,s]       tensor t crosses between s and s+1, once; and the other way
                                                          round where the consumer may come first
direct    leave[t,s] >= x[source,s] - x[consumer,s]       t is used elsewhere than on its own stage s
          arrive[t,s] >= x[consumer,s] - x[source,s]      t is used on s and made elsewhere

load[d] = sum_v seconds[v,d] x[v,d] + sum_t seconds[t,d] (transfers of t at d) + again[d] <= T        minimise T
          and seconds[p,d] hosted[p,s] of what a stage makes where it has one of its users
again[d] >= sum_v forward[v,d] x[v,d] - U (1 - r[d])               device d recomputes where r[d] = 1
fixed + in_flight (saved + received) + transient <= capacity + M r[d]       on every device
fixed + saved + in_flight received + transient <= capacity                  where it may recompute

x[v,d] sums the stages of device d. U is the least bottleneck known, so that nothing better is cut off; M is the most that
blocks of so many seconds save.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import pulp

from pipecut.compiler.partition.load import bottleneck, transfer_seconds
from pipecut.compiler.partition.memory import recomputing
from pipecut.compiler.partition.problem import Problem, SharedParameter

MIB = 2.0**20


@dataclass(frozen=True)
class Program:
    """The model and its variables; `scale` is what times are divided by. `transient`, `recompute` and `again` are by device.

    `fullest` is the largest part of its capacity that a device uses, where the program was asked to have it.
    """

    model: Any
    y: dict[tuple[int, int], Any]
    transfers: list[tuple[Any, int, int, str]]
    hosted: dict[tuple[int, int], Any]
    transient: dict[int, Any]
    recompute: dict[int, Any]
    again: dict[int, Any]
    bottleneck: Any
    fullest: Any
    scale: float


@dataclass(frozen=True)
class _Traffic:
    """Terms of each device's load: (variable, seconds), and of what its stages receive: (variable, bytes in all)."""

    load: dict[int, list[tuple[Any, float]]]
    received: dict[int, list[tuple[Any, float]]]
    variables: list[tuple[Any, int, int, str]]


def build(problem: Problem, most: float = float("inf"), balance: bool = False) -> Program:
    """Write the program; `most` is the least bottleneck known, in seconds. With `balance` it has how full devices are.

    Times are divided by `scale`, bytes by 2**20, so that numbers stay near one.
    """
    stages = range(len(problem.stage_devices))
    last = len(problem.stage_devices) - 1
    blocks = range(len(problem.blocks))
    total = sum(min(b.seconds.values()) for b in problem.blocks)
    scale = max(total / len(problem.stage_devices), 1e-12)
    model = pulp.LpProblem("partition", pulp.LpMinimize)
    slowest = model.add_variable("T", 0)
    fullest = model.add_variable("fullest", 0, 1) if balance else 1
    model += slowest
    y: dict[tuple[int, int], Any] = {
        (v, s): model.add_variable(f"y_{v}_{s}", cat="Binary") for v in blocks for s in range(last)
    }
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
    device_of = problem.device_of
    stages_of = {d: [s for s in stages if device_of[s] == d] for d in sorted(set(device_of))}
    on = (
        {(v, d): pulp.lpSum(x[v, s] for s in here) for v in blocks for d, here in stages_of.items()}
        if problem.devices
        else x
    )
    traffic = (
        _relayed(problem, model, y) if problem.comm == "relay" else _direct(problem, model, on)
    )
    hosted = _hosted(problem, model, x)
    program = Program(model, y, traffic.variables, hosted, {}, {}, {}, slowest, fullest, scale)
    if problem.comm == "relay":
        for s in stages:
            # A rank without a stage could not relay.
            model += pulp.lpSum(x[v, s] for v in blocks) >= 1
    for d, here in stages_of.items():
        kind = problem.stage_devices[here[0]].kind
        load = [
            b.seconds[kind] / scale * on[v, d]
            for v, b in enumerate(problem.blocks)
            if b.seconds[kind]
        ]
        load += [seconds / scale * variable for variable, seconds in traffic.load[d] if seconds]
        forward = [
            b.forward_seconds[kind] / scale * on[v, d]
            for v, b in enumerate(problem.blocks)
            if b.forward_seconds.get(kind)
        ]
        load += _made(problem, hosted, x, here, "seconds", scale)
        forward += _made(problem, hosted, x, here, "forward_seconds", scale)
        if problem.recompute == "always":
            load += forward
        if balance or not everything_fits(problem, here):
            if problem.recompute == "auto":
                program.recompute[d] = model.add_variable(f"recompute_{d}", cat="Binary")
                program.again[d] = model.add_variable(f"again_{d}", 0)
                limit = min(most, _all_forward(problem, kind, len(here))) / scale
                model += program.again[d] >= pulp.lpSum(forward) - limit * (
                    1 - program.recompute[d]
                )
                load.append(program.again[d])
            _memory_rows(problem, program, traffic, x, d, here, most)
        model += pulp.lpSum(load) <= slowest
    return program


def _made(
    problem: Problem,
    hosted: dict[tuple[int, int], Any],
    x: dict[tuple[int, int], Any],
    here: list[int],
    what: str,
    scale: float,
) -> list[Any]:
    """Terms of what a device's stages make for themselves: its `seconds`, or `forward` alone."""
    kind, terms = problem.stage_devices[here[0]].kind, []
    for p, shared in enumerate(problem.shared):
        seconds = getattr(shared, what).get(kind, 0.0)
        terms += [seconds / scale * _host(hosted, x, p, shared, s) for s in here if seconds]
    return terms


def _host(
    hosted: dict[tuple[int, int], Any],
    x: dict[tuple[int, int], Any],
    p: int,
    shared: SharedParameter,
    stage: int,
) -> Any:
    """1 where a stage has one of its users."""
    return hosted[p, stage] if (p, stage) in hosted else x[shared.users[0], stage]


def _all_forward(problem: Problem, kind: str, stages: int) -> float:
    """The most forward seconds that so many stages of a kind may have."""
    own = sum(shared.forward_seconds.get(kind, 0.0) for shared in problem.shared)
    return sum(b.forward_seconds.get(kind, 0.0) for b in problem.blocks) + stages * own


def _memory_rows(
    problem: Problem,
    program: Program,
    traffic: _Traffic,
    x: dict[tuple[int, int], Any],
    device: int,
    here: list[int],
    most: float,
) -> None:
    model, stage_devices = program.model, problem.stage_devices
    program.transient[device] = transient = model.add_variable(f"transient_{device}", 0)
    for s in here:
        for v, block in enumerate(problem.blocks):
            if block.transient_bytes:
                model += transient >= block.transient_bytes / MIB * x[v, s]
    used = [transient]
    used += [size / MIB * variable for variable, size in traffic.received[device] if size]
    for s in here:
        for p, shared in enumerate(problem.shared):
            if shared.bytes:
                used.append(shared.bytes / MIB * _host(program.hosted, x, p, shared, s))

    def saved(flying: list[int]) -> list[Any]:
        kept = [(v, b.saved_bytes / MIB) for v, b in enumerate(problem.blocks) if b.saved_bytes]
        terms = [
            n * size * x[v, s] for s, n in zip(here, flying, strict=True) if n for v, size in kept
        ]
        made = [(p, shared) for p, shared in enumerate(problem.shared) if shared.saved_bytes]
        rows = zip(here, flying, strict=True)
        return terms + [
            n * shared.saved_bytes / MIB * _host(program.hosted, x, p, shared, s)
            for s, n in rows
            if n
            for p, shared in made
        ]

    capacity = stage_devices[here[0]].capacity / MIB * program.fullest
    recompute = program.recompute.get(device)
    if problem.recompute != "always":
        room = 0.0 if recompute is None else _most_saved(problem, here, most) / MIB * recompute
        model += (
            pulp.lpSum(used + saved([stage_devices[s].in_flight for s in here])) <= capacity + room
        )
    if problem.recompute != "never":
        model += (
            pulp.lpSum(used + saved([stage_devices[s].saved_microbatches(True) for s in here]))
            <= capacity
        )


def _most_saved(problem: Problem, here: list[int], most: float) -> float:
    """The most that all but one microbatch in flight save on a device that recomputes within `most` seconds.

    A fractional knapsack.
    """
    kind, flying = (
        problem.stage_devices[here[0]].kind,
        max(problem.stage_devices[s].in_flight for s in here),
    )
    each = sorted(
        (
            (b.seconds[kind] + b.forward_seconds.get(kind, 0.0), b.saved_bytes)
            for b in problem.blocks
            if b.saved_bytes
        ),
        key=lambda pair: pair[0] / pair[1],
    )
    total, left = 0.0, most
    for seconds, size in each:
        share = min(1.0, left / seconds) if seconds else 1.0
        total, left = total + share * size, left - share * seconds
    made = len(here) * sum(shared.saved_bytes for shared in problem.shared)
    return max(0, flying - 1) * (total + made)


def everything_fits(problem: Problem, here: list[int]) -> bool:
    """Whether a device's stages could each hold everything, so that memory cannot bind there."""
    kept = sum(c.forward_bytes for c in problem.tensors)
    kept += sum(b.saved_bytes for b in problem.blocks) + sum(s.saved_bytes for s in problem.shared)
    transient = max((b.transient_bytes for b in problem.blocks), default=0)
    fixed = sum(s.bytes for s in problem.shared)
    stage_devices = [problem.stage_devices[s] for s in here]
    return (
        sum(fixed + slot.in_flight * kept for slot in stage_devices) + transient
        <= stage_devices[0].capacity
    )


def _relayed(problem: Problem, model: Any, y: dict[tuple[int, int], Any]) -> _Traffic:
    traffic = _Traffic(defaultdict(list), defaultdict(list), [])
    device_of = problem.device_of
    backwards = any(consumer < c.source for c in problem.tensors for consumer in c.consumers)
    for t, tensor in enumerate(problem.tensors):
        for s in range(len(problem.stage_devices) - 1):
            cross = model.add_variable(f"cross_{t}_{s}", 0, 1)
            for consumer in tensor.consumers:
                model += cross >= y[tensor.source, s] - y[consumer, s]
                if backwards:
                    model += cross >= y[consumer, s] - y[tensor.source, s]
            seconds = transfer_seconds(problem, tensor, s)
            traffic.load[device_of[s]].append((cross, seconds))
            traffic.load[device_of[s + 1]].append((cross, seconds))
            # Where the direction is open, both ends are taken to hold what crosses.
            for stage in (s, s + 1) if backwards else (s + 1,):
                size = problem.stage_devices[stage].in_flight * tensor.forward_bytes
                traffic.received[device_of[stage]].append((cross, size))
            traffic.variables.append((cross, t, s, "cross"))
    return traffic


def _direct(problem: Problem, model: Any, on: dict[tuple[int, int], Any]) -> _Traffic:
    traffic = _Traffic(defaultdict(list), defaultdict(list), [])
    first = {d: s for s, d in reversed(list(enumerate(problem.device_of)))}
    for t, tensor in enumerate(problem.tensors):
        for d, s in sorted(first.items()):
            leave, arrive = (
                model.add_variable(f"leave_{t}_{d}", 0, 1),
                model.add_variable(f"arrive_{t}_{d}", 0, 1),
            )
            for consumer in tensor.consumers:
                model += leave >= on[tensor.source, d] - on[consumer, d]
                model += arrive >= on[consumer, d] - on[tensor.source, d]
            seconds = transfer_seconds(problem, tensor, s)
            traffic.load[d] += [(leave, seconds), (arrive, seconds)]
            traffic.received[d].append(
                (arrive, problem.stage_devices[s].in_flight * tensor.forward_bytes)
            )
            traffic.variables.extend([(leave, t, d, "leave"), (arrive, t, d, "arrive")])
    return traffic


def _hosted(
    problem: Problem, model: Any, x: dict[tuple[int, int], Any]
) -> dict[tuple[int, int], Any]:
    hosted = {}
    for p, shared in enumerate(problem.shared):
        if len(shared.users) < 2 or not (shared.bytes or shared.seconds or shared.saved_bytes):
            continue
        for s in range(len(problem.stage_devices)):
            hosted[p, s] = model.add_variable(f"hosted_{p}_{s}", 0, 1)
            for user in shared.users:
                model += hosted[p, s] >= x[user, s]
    return hosted


def start_values(problem: Problem, program: Program, stages: list[int]) -> dict[str, float]:
    """Every variable's value for a known placement, by name."""
    # At most 1, though the placement may need what rounding gives.
    values = {program.bottleneck.name: bottleneck(problem, stages) / program.scale, "fullest": 1.0}
    device_of = problem.device_of
    for (v, s), variable in program.y.items():
        if not isinstance(variable, int):
            values[variable.name] = float(stages[v] <= s)
    for variable, t, at, kind in program.transfers:
        source, consumers = (
            stages[problem.tensors[t].source],
            [stages[c] for c in problem.tensors[t].consumers],
        )
        own, using = device_of[source], {device_of[stage] for stage in consumers}
        if kind == "cross":
            values[variable.name] = float(min(source, *consumers) <= at < max(source, *consumers))
        elif kind == "leave":
            values[variable.name] = float(own == at and bool(using - {at}))
        else:
            values[variable.name] = float(own != at and at in using)
    for (p, s), variable in program.hosted.items():
        values[variable.name] = float(s in {stages[u] for u in problem.shared[p].users})
    again = dict(zip(device_of, recomputing(problem, stages), strict=True))
    for d, variable in program.transient.items():
        here = [
            b.transient_bytes
            for b, stage in zip(problem.blocks, stages, strict=True)
            if device_of[stage] == d
        ]
        values[variable.name] = max(here, default=0) / MIB
    for d, variable in program.recompute.items():
        values[variable.name] = float(again[d])
        forward = [
            b.forward_seconds.get(problem.stage_devices[stage].kind, 0.0)
            for b, stage in zip(problem.blocks, stages, strict=True)
            if device_of[stage] == d
        ]
        forward += [
            shared.forward_seconds.get(problem.stage_devices[stage].kind, 0.0)
            for shared in problem.shared
            for stage in {stages[user] for user in shared.users}
            if device_of[stage] == d
        ]
        values[program.again[d].name] = sum(forward) / program.scale if again[d] else 0.0
    return values
