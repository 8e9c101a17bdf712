"""Graph -> seconds measured on a real device: each operator by itself, scaled so that layers take what they take whole."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from pipecut.compiler.graph import Graph
from pipecut.compiler.profile.operators import operator_key, time_operator
from pipecut.compiler.profile.pieces import Piece, Runner, pieces_of
from pipecut.compiler.profile.store import Store, default_path, key_of
from pipecut.compiler.profile.timing import Timed

__all__ = ["Profiled", "Seconds", "default_path", "measured_seconds", "profile"]
# Called with what is done, and of how many.
Progress = Callable[[str, int, int], None]
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
    graph: Graph, batch: dict[str, torch.Tensor], microbatch: int, kind: str, device: torch.device, path: Path, progress: Progress
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
        distinct = {operator_key(o, graph, microbatch): o for o in graph.operators}
        missing = [(key, o) for key, o in distinct.items() if key not in known]
        pieces = pieces_of(graph)
        total = len(missing) + len(pieces)
        for at, (key, operator) in enumerate(missing):
            progress(f"{operator.target} {operator.module}", at, total)
            timed = time_operator(operator, graph, microbatch, device)
            if timed is None:
                failed += [operator.target] if operator.target != "getitem" else []
                continue
            known[key] = timed
            store.write(key, f"{operator.target} in {operator.module}", timed)
        runner = Runner(graph, batch, device)
        for at, piece in enumerate(pieces):
            progress(f"layer {piece.module}", len(missing) + at, total)
            key = piece_key(piece, graph, microbatch)
            timed = runner.run(piece, timed=key not in known)
            if timed is not None:
                known[key] = timed
                store.write(key, f"layer {piece.module}", timed)
    finally:
        torch.set_num_threads(threads)
    new = len(known) - before
    return Profiled(new, before, tuple(sorted(set(failed))), _overstated(graph, microbatch, known))


def piece_key(piece: Piece, graph: Graph, microbatch: int) -> str:
    """Layers alike have the same."""
    return key_of(("piece", [operator_key(graph.operators[i], graph, microbatch) for i in piece.operators]))


def measured_seconds(graph: Graph, microbatch: int, kinds: list[str], path: Path) -> dict[str, Seconds]:
    """For each device kind whose pieces were all measured, the seconds of every operator."""
    found = {}
    for kind in kinds:
        known = Store(path, kind).read()
        seconds = _scaled(graph, microbatch, known) if known else None
        if seconds is not None:
            found[kind] = seconds
    return found


def _scaled(graph: Graph, microbatch: int, known: dict[str, Timed]) -> Seconds | None:
    """Operators by themselves, times what their piece takes over their sum. None when pieces are missing."""
    result: Seconds = [(0.0, 0.0)] * len(graph.operators)
    for piece in pieces_of(graph):
        whole = known.get(piece_key(piece, graph, microbatch))
        if whole is None:
            return None
        alone = [known.get(operator_key(graph.operators[i], graph, microbatch)) for i in piece.operators]
        forward = sum(t.forward for t in alone if t is not None)
        backward = sum(t.backward for t in alone if t is not None)
        # What failed by itself is part of the others' time.
        factors = whole.forward / forward if forward else 0.0, whole.backward / backward if backward else 0.0
        for index, timed in zip(piece.operators, alone, strict=True):
            if timed is not None:
                result[index] = timed.forward * factors[0], timed.backward * factors[1]
    return result


def _overstated(graph: Graph, microbatch: int, known: dict[str, Timed]) -> float:
    alone = whole = 0.0
    for piece in pieces_of(graph):
        timed = known.get(piece_key(piece, graph, microbatch))
        if timed is None:
            continue
        parts = [known.get(operator_key(graph.operators[i], graph, microbatch)) for i in piece.operators]
        alone += sum(t.forward + t.backward for t in parts if t is not None)
        whole += timed.forward + timed.backward
    return alone / whole - 1 if whole else 0.0
