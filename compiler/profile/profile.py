"""Graph -> measurements in the store: each operator by itself, and each layer whole."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from pipecut.compiler.graph import Graph
from pipecut.compiler.operators.table import GETITEM
from pipecut.compiler.profile.layers import Layer, chains_of, layers_of
from pipecut.compiler.profile.operators import operator_key, time_operator
from pipecut.compiler.profile.pace import are_alike
from pipecut.compiler.profile.runner import Runner
from pipecut.compiler.profile.scaled import layer_key, overstated
from pipecut.compiler.profile.store import Store
from pipecut.compiler.profile.timing import Timed

# Called with what is being done, how much is done, and of how much.
ProfileProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Profiled:
    """What a profile has of a graph.

    Operators and layers measured now, and in the store before; of the former, those that the store
    had of another pace of this machine; operators that cannot run by themselves; how much the sum
    of single operators is above whole layers, relative to these.
    """

    new: int
    stored: int
    again: int
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
    pace: float,
) -> Profiled:
    """Measure what the store lacks, on one thread of a CPU. Everything measured is kept at once.

    What was measured at another pace than the machine's now is measured again.

    Raises UserFileError when the store cannot be used.
    """
    measuring = _Measuring(graph, microbatch, device, Store(path, kind), progress, pace)
    before = len(measuring.timed)
    with _one_thread():
        measuring.time_operators()
        measuring.time_layers(Runner(graph, batch, device))
    new = len(measuring.timed) - before
    failed = tuple(sorted(measuring.failed))
    again = len(measuring.of_other_paces & set(measuring.timed))
    return Profiled(new, before, again, failed, overstated(graph, microbatch, measuring.timed))


class _Measuring:
    """Measurements so far: those of the store, and new ones, which it gets at once."""

    def __init__(
        self,
        graph: Graph,
        microbatch: int,
        device: torch.device,
        store: Store,
        progress: ProfileProgress,
        pace: float,
    ) -> None:
        self.graph, self.microbatch, self.device = graph, microbatch, device
        self.store, self.progress = store, progress
        self.pace = pace
        stored = store.measurements()
        self.timed = {
            key: measured.timed
            for key, measured in stored.items()
            if are_alike(measured.pace, pace)
        }
        self.of_other_paces = stored.keys() - self.timed.keys()
        self.failed: set[str] = set()
        self.keys = [operator_key(o, graph, microbatch) for o in graph.operators]
        self.layers = layers_of(graph)
        self.missing = {
            key: operator
            for key, operator in zip(self.keys, graph.operators, strict=True)
            if key not in self.timed
        }
        self.steps = len(self.missing) + len(self.layers)

    def time_operators(self) -> None:
        """Each distinct operator that the store lacks."""
        for at, (key, operator) in enumerate(self.missing.items()):
            self.progress(f"{operator.target} {operator.module}", at, self.steps)
            timed = time_operator(operator, self.graph, self.microbatch, self.device)
            if timed is not None:
                self._keep(key, f"{operator.target} in {operator.module}", timed)
            elif operator.target != GETITEM:
                self.failed.add(operator.target)

    def time_layers(self, runner: Runner) -> None:
        """Each distinct layer that the store lacks, in chains."""
        done = len(self.missing)
        for chain in chains_of(self.graph, self.layers, self.device):
            self.progress(f"layers {chain[0].module} to {chain[-1].module}", done, self.steps)
            done += len(chain)
            self._time_chain(runner, chain)

    def _time_chain(self, runner: Runner, chain: Sequence[Layer]) -> None:
        keys = [layer_key([self.keys[i] for i in layer.operators]) for layer in chain]
        lacking = {
            key: layer for key, layer in zip(keys, chain, strict=True) if key not in self.timed
        }
        # Run even where nothing lacks, since the next chain needs its results.
        measured = runner.run(chain, timed=bool(lacking))
        for key, layer in lacking.items():
            equal = [t for other, t in zip(keys, measured, strict=True) if other == key and t]
            if equal:
                self._keep(key, f"layer {layer.module}", median_of(equal))

    def _keep(self, key: str, what: str, timed: Timed) -> None:
        self.timed[key] = timed
        self.store.write(key, what, timed, self.pace)


def median_of(equal: Sequence[Timed]) -> Timed:
    """Medians over layers that are equal."""
    return Timed(
        statistics.median(timed.forward for timed in equal),
        statistics.median(timed.backward for timed in equal),
        statistics.median(timed.spread for timed in equal),
        sum(timed.runs for timed in equal),
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
