"""The view Memory: what is alive on every rank over the predicted step, and of what it consists."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipecut.plan.actions import Action, Recv, Send
from pipecut.plan.replay.memory import MemoryCurve, Standing, memory_curve
from pipecut.view.columns import Column, column
from pipecut.view.sources import Sources


@dataclass(frozen=True)
class Alive:
    """Bytes beside what stands, while an event runs.

    `activations` are in flight, with those on their way to and from other ranks; `transients` are
    what the event takes above what was alive before it.
    """

    gradients: int
    activations: int
    transients: int


@dataclass(frozen=True)
class RankMemory:
    """A pipeline rank's bytes.

    - `standing`: all through the step. `outside`: what no tensor can have, as a GPU's context.
    - `peak`: of all tensors; an upper bound where the rank has no curve.
    - `curve`: for each of the rank's computes and its sum of gradients, in order, a position in
      `MemoryView.alive`; each holds from the end of the one before to its own end, transients from
      its start. One more holds from the last event on. None where an operator cannot run on fake
      tensors.
    - `measured`: bytes at the peak of each replica's rank; 0 where its device counts none.
    """

    standing: Standing
    outside: int
    capacity: int
    peak: int
    curve: Column | None
    measured: tuple[int, ...]


@dataclass(frozen=True)
class MemoryView:
    """Every pipeline rank's memory; few different values of `alive` occur, so each is here once."""

    ranks: tuple[RankMemory, ...]
    alive: tuple[Alive, ...]


def memory_of(sources: Sources) -> MemoryView:
    """The memory of a plan's ranks, and at the peak of a run's."""
    positions: dict[Alive, int] = {}
    ranks = tuple(
        _rank_memory(sources, rank, positions) for rank in range(len(sources.folder.actions))
    )
    return MemoryView(ranks, tuple(positions))


def _rank_memory(sources: Sources, rank: int, positions: dict[Alive, int]) -> RankMemory:
    plan = sources.plan
    stages = [stage for stage in plan.stages if stage.pipeline_rank == rank]
    curve = memory_curve(plan, sources.folder.actions[rank], rank)
    return RankMemory(
        standing=curve.standing if curve is not None else Standing(0, 0, 0),
        outside=stages[0].outside_bytes,
        capacity=stages[0].device_bytes,
        peak=stages[0].peak_bytes,
        curve=_column(curve, positions) if curve is not None else None,
        measured=_measured(sources, plan.layout.replica_ranks(rank)),
    )


def _column(curve: MemoryCurve, positions: dict[Alive, int]) -> Column:
    return column(positions.setdefault(alive, len(positions)) for alive in alive_of(curve))


def alive_of(curve: MemoryCurve) -> list[Alive]:
    """What is alive in each compute and sum of gradients of a step, and after the last."""
    stands, gradients = curve.standing.total, 0
    level, before = stands, 0
    states: list[Alive] = []
    for moment in curve.moments:
        if _takes_time(moment.action):
            transients = max(0, moment.peak - level, before - level)
            states.append(Alive(gradients, level - stands - gradients, transients))
            before = 0
        elif moment.peak > max(level, moment.after):
            # What is brought to the rank before its step, which begins with a message.
            before = moment.peak
        level, gradients = moment.after, moment.gradients
    states.append(Alive(gradients, level - stands - gradients, 0))
    return states


def _takes_time(action: Action) -> bool:
    """Whether the rank's own lane has it: messages come and go beside what it computes."""
    return not isinstance(action, Send | Recv)


def _measured(sources: Sources, replica_ranks: Sequence[int]) -> tuple[int, ...]:
    if sources.run is None:
        return ()
    peaks = {row.rank: row.memory for row in sources.run.measured}
    return tuple(peaks[rank] for rank in replica_ranks)
