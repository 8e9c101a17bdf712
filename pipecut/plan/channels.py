"""The process groups of a plan, in an order in which they open without ranks waiting in a circle.

A channel carries what one rank sends to another, activations and gradients alike; each direction
has its own, since sends and receives of one NCCL communicator wait for each other. NCCL makes a
communicator at its first use, and that keeps the *host* until every rank of it has come. So each is
used once before the first step, in one order that all ranks follow:

    every rank opens its groups in the order of the list. Of those that are not open, take the
    first: its ranks have opened all of theirs before it, so each of them is at it or comes to it.
    So it opens, and so do all.

Groups of one phase have no rank in common and open at once: in a chain, first the boundaries 0, 2,
4, ... and then 1, 3, 5, ...
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pipecut.plan.layout import Place, RankLayout
from pipecut.plan.schema import Plan

GroupKind = Literal["channel", "tied", "replicas", "all"]


@dataclass(frozen=True, order=True)
class Channel:
    """From the rank that sends to the one that receives."""

    source: int
    target: int

    def __str__(self) -> str:
        return f"rank {self.source} to rank {self.target}"


@dataclass(frozen=True)
class Group:
    """Ranks that share a communicator.

    A `channel` from the first to the second, those of `tied` stages, of `replicas`, or `all`.
    """

    kind: GroupKind
    ranks: tuple[int, ...]

    def __str__(self) -> str:
        if self.kind == "channel":
            return f"channel {self.ranks[0]} -> {self.ranks[1]}"
        if self.kind == "all":
            return "group of all ranks"
        return f"group of {self.kind} ranks {', '.join(map(str, self.ranks))}"


def channels(plan: Plan) -> list[Channel]:
    """The channels between the pipeline ranks of one replica, in training or in eval mode."""
    pipeline_rank_of = plan.layout.pipeline_rank_of
    used: set[Channel] = set()
    for boundary in (*plan.boundaries, *plan.in_evaluation().boundaries):
        before, after = pipeline_rank_of[boundary.left], pipeline_rank_of[boundary.left + 1]
        if before != after and boundary.tensors:
            used.add(Channel(before, after))
            if any(tensor.needs_grad for tensor in boundary.tensors):
                used.add(Channel(after, before))
    return sorted(used)


def groups_of(plan: Plan) -> list[Group]:
    """Every group of a plan, in the order in which all ranks make and open them."""
    return in_phases(_unordered(plan, range(plan.layout.replicas)))


def groups_with(plan: Plan, rank: int) -> list[Group]:
    """The groups that a rank is in, in no order."""
    replica = plan.layout.place(rank).replica
    return [group for group in _unordered(plan, (replica,)) if rank in group.ranks]


def _unordered(plan: Plan, replicas: Iterable[int]) -> Iterable[Group]:
    """The groups of some replicas, and those that all replicas share, each once."""
    layout, groups = plan.layout, list[Group]()
    for channel in channels(plan):
        groups += _per_replica("channel", layout, (channel.source, channel.target), replicas)
    for tied in plan.tied:
        # Stages of one rank share the parameter itself; parameters of the same ranks share a group.
        ranks = sorted({layout.pipeline_rank_of[stage] for stage in tied.stages})
        groups += _per_replica("tied", layout, ranks, replicas) if len(ranks) > 1 else []
    if layout.replicas > 1:
        same_stages = [layout.replica_ranks(p) for p in range(layout.pipeline_ranks)]
        groups += [Group("replicas", tuple(ranks)) for ranks in same_stages]
    if layout.size > 1:
        groups.append(Group("all", tuple(range(layout.size))))
    return dict.fromkeys(groups)


def _per_replica(
    kind: GroupKind, layout: RankLayout, pipeline_ranks: Sequence[int], replicas: Iterable[int]
) -> list[Group]:
    return [
        Group(kind, tuple(layout.rank(Place(p, replica)) for p in pipeline_ranks))
        for replica in replicas
    ]


def opened_by_rank(groups: Sequence[Group]) -> dict[int, list[tuple[int, ...]]]:
    """The ranks of the groups that each rank opens, in order."""
    opens: defaultdict[int, list[tuple[int, ...]]] = defaultdict(list)
    for group in groups:
        for rank in group.ranks:
            opens[rank].append(group.ranks)
    return dict(opens)


def in_phases(groups: Iterable[Group]) -> list[Group]:
    """The groups in an order in which those without a rank in common can open at once.

    Each is in the first phase that has none of its ranks.
    """
    ranks_in: defaultdict[int, set[int]] = defaultdict(set)
    phases: defaultdict[int, list[Group]] = defaultdict(list)
    for group in groups:
        # There are at most as many phases as groups, so an empty one is always reached.
        phase = next(n for n in range(len(phases) + 1) if ranks_in[n].isdisjoint(group.ranks))
        ranks_in[phase] |= set(group.ranks)
        phases[phase].append(group)
    return [group for phase in sorted(phases) for group in phases[phase]]
