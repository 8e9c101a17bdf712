"""Problems made by hand or drawn at random, and their optima by brute force."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from hypothesis import strategies as st

from pipecut.compiler.partition.load import bottleneck
from pipecut.compiler.partition.memory import fits
from pipecut.compiler.partition.problem import (
    Block,
    Problem,
    SharedParameter,
    StageDevice,
    Stages,
    TensorUse,
)

ROOMY, MIB = 10**9, 2**20


def in_flight_per_stage(count: int) -> tuple[int, ...]:
    """As many microbatches in flight as 1F1B has."""
    return tuple(count - stage for stage in range(count))


def block(seconds: float, saved: int = 0, transient: int = 0, forward: float = 0.0) -> Block:
    """A block on devices of kind `gpu`."""
    return Block((), {"gpu": seconds}, saved, transient, {"gpu": forward})


def device(capacity: int = ROOMY, in_flight: int = 1, latency: float = 0.0) -> StageDevice:
    """A device with a link of a byte per second, so that bytes are seconds."""
    return StageDevice("gpu", capacity, in_flight, bandwidth=1.0, latency=latency)


def tensor(source: int, *consumers: int, size: float = 1.0, back: float = 0.0) -> TensorUse:
    """A tensor in one message each way."""
    return TensorUse(f"t{source}", source, consumers, size, back, 1 + bool(back))


def chain(
    seconds: list[float], stages: int, sizes: list[float] | None = None, capacity: int = ROOMY
) -> Problem:
    """Blocks one after the other, each with one operator; `sizes` are the bytes between them."""
    blocks = tuple(replace(block(s), operators=(index,)) for index, s in enumerate(seconds))
    sizes = sizes or [0.0] * (len(seconds) - 1)
    tensors = tuple(tensor(v, v + 1, size=size) for v, size in enumerate(sizes))
    edges = frozenset((v, v + 1) for v in range(len(seconds) - 1))
    devices = tuple(device(capacity, stages - stage) for stage in range(stages))
    return Problem(blocks, edges, tensors, (), devices)


@st.composite
def _seconds(draw: st.DrawFn, kinds: tuple[str, ...], most: int) -> dict[str, float]:
    return {kind: float(draw(st.integers(1, most))) for kind in kinds}


@st.composite
def _forward(draw: st.DrawFn, seconds: dict[str, float]) -> dict[str, float]:
    return {kind: float(draw(st.integers(0, int(amount)))) for kind, amount in seconds.items()}


@st.composite
def _blocks(
    draw: st.DrawFn, count: int, kinds: tuple[str, ...], recompute: bool
) -> tuple[Block, ...]:
    blocks = []
    for index in range(count):
        seconds = draw(_seconds(kinds, 20))
        forward = draw(_forward(seconds)) if recompute else {}
        saved, transient = draw(st.integers(0, 4)) * MIB, draw(st.integers(0, 3)) * MIB
        blocks.append(Block((index,), seconds, saved, transient, forward))
    return tuple(blocks)


@st.composite
def _tensors(draw: st.DrawFn, count: int) -> tuple[TensorUse, ...]:
    tensors = []
    for source in range(count - 1):
        later = st.integers(source + 1, count - 1)
        consumers = tuple(sorted(draw(st.sets(later, min_size=0, max_size=3))))
        if consumers:
            size = draw(st.integers(0, 5)) * MIB
            tensors.append(TensorUse(f"t{source}", source, consumers, size, size, 2))
    return tuple(tensors)


@st.composite
def _backward_tensors(draw: st.DrawFn, count: int) -> tuple[TensorUse, ...]:
    """Tensors of backward operators, which go from later blocks to earlier ones."""
    tensors = []
    for source in range(1, count):
        if draw(st.booleans()):
            consumer, size = draw(st.integers(0, source - 1)), draw(st.integers(0, 5)) * MIB
            tensors.append(TensorUse(f"b{source}", source, (consumer,), size, 0, 1))
    return tuple(tensors)


@st.composite
def _shared(
    draw: st.DrawFn, count: int, kinds: tuple[str, ...], recompute: bool
) -> tuple[SharedParameter, ...]:
    """Parameters, and results that stages compute for themselves."""
    blocks = st.integers(0, count - 1)
    parameters = draw(st.lists(st.sets(blocks, min_size=1, max_size=2), max_size=3))
    shared = [
        SharedParameter(f"p{index}", MIB * (index + 1), tuple(sorted(users)))
        for index, users in enumerate(parameters)
    ]
    results = draw(st.lists(st.sets(blocks, min_size=1, max_size=3), max_size=2))
    for index, users in enumerate(results):
        seconds = draw(_seconds(kinds, 6))
        forward = draw(_forward(seconds)) if recompute else {}
        saved = draw(st.integers(0, 2)) * MIB
        name = f"m{index}"
        shared.append(SharedParameter(name, 0, tuple(sorted(users)), seconds, forward, saved))
    return tuple(shared)


@st.composite
def problems(
    draw: st.DrawFn,
    comm: Literal["relay", "direct"] = "relay",
    kinds: tuple[str, ...] = ("gpu",),
    constraints: bool = False,
    recompute: bool = False,
    several: bool = False,
) -> Problem:
    """Problems of up to six blocks; with `several` two stages on each of two devices."""
    count = draw(st.integers(4 if several else 3, 6))
    stages = 4 if several else draw(st.integers(2, 3))
    blocks = draw(_blocks(count, kinds, recompute))
    tensors = draw(_tensors(count))
    edges = frozenset((row.source, consumer) for row in tensors for consumer in row.consumers)
    shared = draw(_shared(count, kinds, recompute))
    capacity = draw(st.sampled_from([10, 25, 1000])) * MIB
    tensors += draw(_backward_tensors(count)) if comm == "direct" else ()
    devices = tuple(
        StageDevice(kinds[stage % len(kinds)], capacity, stages - stage, float(MIB), 0.5)
        for stage in range(stages)
    )
    problem = Problem(blocks, edges, tensors, shared, devices, comm)
    if recompute:
        problem = replace(problem, recompute=draw(st.sampled_from(["auto", "auto", "always"])))
    if several:
        problem = replace(problem, devices=(0, 1, 0, 1))
    if constraints:
        blocks_, stages_ = st.integers(0, count - 1), st.integers(0, stages - 1)
        pins = draw(st.dictionaries(blocks_, stages_, max_size=2))
        splits = draw(st.sets(st.sampled_from(sorted(edges)), max_size=2)) if edges else ()
        problem = replace(problem, pins=tuple(pins.items()), splits=tuple(splits))
    return problem


def placements(problem: Problem) -> Iterator[Stages]:
    """All placements that are allowed and fit."""
    for stages in itertools.product(range(len(problem.stage_devices)), repeat=len(problem.blocks)):
        idle = len(set(stages)) < len(problem.stage_devices) and problem.comm == "relay"
        if idle or any(stages[u] > stages[v] for u, v in problem.edges):
            continue
        if fits(problem, list(stages)):
            yield list(stages)


def brute_force(problem: Problem) -> float | None:
    """The least bottleneck of all placements; None when none fits."""
    return min((bottleneck(problem, stages) for stages in placements(problem)), default=None)
