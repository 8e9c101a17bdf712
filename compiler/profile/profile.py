"""Graph -> seconds measured on a real device: each operator by itself, scaled so that layers take what they take whole."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from pipecut.compiler.graph import Graph
from pipecut.compiler.operators.table import GETITEM
from pipecut.compiler.profile.layers import Layer, Runner, chains_of, layers_of
from pipecut.compiler.profile.operators import operator_key, time_operator
from pipecut.compiler.profile.store import Store, key_of
from pipecut.compiler.profile.timing import Timed

# Called with what is done, and of how many.
ProfileProgress = Callable[[str, int, int], None]
# Forward and backward seconds of each operator.
Seconds = list[tuple[float, float]]


@dataclass(frozen=True)
class Profiled:
    """What a profile has: operators and pieces measured now and before, those that cannot run by themselves, and how much the
    sum of single operators is above (or below) whole pieces, relative to these."""

    new: int
    known: int
    failed: tuple[str, ...]
    overstated: float


def profile(
    graph: Graph,
    batch: dict[str, torch.Tensor],
    microbatch: int,
    kind: str,
    device: torch.device,
    path: Path,
    progress: ProfileProgress,
) -> Profiled:
    """Measure what the store lacks, one thread on a CPU. Everything measured is kept at once.

    Raises UserFileError when the store cannot be used.
    """
    store = Store(path, kind)
    known = store.read()
    before = len(known)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    failed = []
    try:
        keys = [operator_key(o, graph, microbatch) for o in graph.operators]
        distinct = dict(zip(keys, graph.operators, strict=True))
        missing = [(key, o) for key, o in distinct.items() if key not in known]
        pieces = layers_of(graph)
        total = len(missing) + len(pieces)
        for at, (key, operator) in enumerate(missing):
            progress(f"{operator.target} {operator.module}", at, total)
            timed = time_operator(operator, graph, microbatch, device)
            if timed is None:
                failed += [operator.target] if operator.target != GETITEM else []
                continue
            known[key] = timed
            store.write(key, f"{operator.target} in {operator.module}", timed)
        runner = Runner(graph, batch, device)
        done = len(missing)
        for chain in chains_of(graph, pieces, device):
            progress(f"layers {chain[0].module} to {chain[-1].module}", done, total)
            done += len(chain)
            own = [piece_key([keys[i] for i in piece.operators]) for piece in chain]
            lacking = {
                key: piece for key, piece in zip(own, chain, strict=True) if key not in known
            }
            whole = runner.run(chain, timed=bool(lacking))
            for key, piece in lacking.items():
                alike = [
                    timed
                    for other, timed in zip(own, whole, strict=True)
                    if other == key and timed is not None
                ]
                if alike:
                    known[key] = _middle(alike)
                    store.write(key, f"layer {piece.module}", known[key])
    finally:
        torch.set_num_threads(threads)
    new = len(known) - before
    return Profiled(new, before, tuple(sorted(set(failed))), _overstated(graph, microbatch, known))


def _middle(alike: list[Timed]) -> Timed:
    """Medians over layers that are alike."""
    forward, backward, spread = (
        statistics.median(getattr(t, name) for t in alike)
        for name in ("forward", "backward", "spread")
    )
    return Timed(forward, backward, spread, sum(t.runs for t in alike))


def piece_key(operators: list[str]) -> str:
    """From the keys of its operators: layers alike have the same."""
    return key_of(("piece", operators))


def measured_seconds(
    graph: Graph, microbatch: int, kinds: list[str], path: Path
) -> dict[str, Seconds]:
    """For each device kind whose pieces were all measured, the seconds of every operator."""
    found = {}
    for kind in kinds:
        known = Store(path, kind).read()
        seconds = _scaled(graph, microbatch, known) if known else None
        if seconds is not None:
            found[kind] = seconds
    return found


def _measured_pieces(
    graph: Graph, microbatch: int, known: dict[str, Timed]
) -> Iterator[tuple[Layer, Timed | None, list[Timed | None]]]:
    """Each piece, what it takes whole, and what each of its operators takes alone; None for what was not measured."""
    for piece in layers_of(graph):
        keys = [operator_key(graph.operators[i], graph, microbatch) for i in piece.operators]
        yield piece, known.get(piece_key(keys)), [known.get(key) for key in keys]


def _scaled(graph: Graph, microbatch: int, known: dict[str, Timed]) -> Seconds | None:
    """Operators by themselves, times what their piece takes over their sum where it could run. None when pieces are missing."""
    result: Seconds = [(0.0, 0.0)] * len(graph.operators)
    for piece, whole, alone in _measured_pieces(graph, microbatch, known):
        if whole is None and not any(alone):
            return None
        forward = sum(t.forward for t in alone if t is not None)
        backward = sum(t.backward for t in alone if t is not None)
        # What failed by itself is part of the others' time.
        factors = 1.0, 1.0
        if whole is not None:
            factors = (
                whole.forward / forward if forward else 0.0,
                whole.backward / backward if backward else 0.0,
            )
        for index, timed in zip(piece.operators, alone, strict=True):
            if timed is not None:
                result[index] = timed.forward * factors[0], timed.backward * factors[1]
    return result


def _overstated(graph: Graph, microbatch: int, known: dict[str, Timed]) -> float:
    apart = together = 0.0
    for _, whole, alone in _measured_pieces(graph, microbatch, known):
        if whole is not None:
            apart += sum(t.forward + t.backward for t in alone if t is not None)
            together += whole.forward + whole.backward
    return apart / together - 1 if together else 0.0
