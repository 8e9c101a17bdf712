"""The process groups of a plan, in an order in which they open without ranks that wait in a circle.

A channel carries what one rank sends to another one, activations and gradients alike; each direction
has its own, since sends and receives of one NCCL communicator wait for each other. NCCL makes a
communicator at its first use, and that keeps the *host* until every rank of it has come. So each is
used once before the first step, in one order that all ranks follow:

    every rank opens its own groups in the order of the list. Of those that are not open, take the
    first: its ranks have opened all theirs before it, so each of them is at it or comes to it.
    So it opens, and so do all.

Groups of one phase have no rank in common and open at once: in a chain, first boundaries 0, 2, 4, ...
and then 1, 3, 5, ...
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipecut.plan.layout import Place
from pipecut.plan.schema import Plan


@dataclass(frozen=True)
class Group:
    """Ranks that share a communicator.

    A `channel` from the first to the second, those of `tied` stages, of `replicas`, or `all`.
    """

    kind: str
    ranks: tuple[int, ...]

    def __str__(self) -> str:
        if self.kind == "channel":
            return f"channel {self.ranks[0]} -> {self.ranks[1]}"
        if self.kind == "all":
            return "group of all ranks"
        return f"group of {self.kind} ranks {', '.join(map(str, self.ranks))}"


def channels(plan: Plan) -> list[tuple[int, int]]:
    """Places in the pipeline between which something is sent, from one to the other."""
    pipeline_rank_of = plan.layout.pipeline_rank_of
    found: set[tuple[int, int]] = set()
    for boundary in (*plan.boundaries, *plan.in_evaluation().boundaries):
        left, right = pipeline_rank_of[boundary.left], pipeline_rank_of[boundary.left + 1]
        if left != right and boundary.tensors:
            found.add((left, right))
            found |= (
                {(right, left)} if any(tensor.needs_grad for tensor in boundary.tensors) else set()
            )
    return sorted(found)


def groups_of(plan: Plan) -> list[Group]:
    """Every group of a plan, in the order in which all ranks make and open them."""

    layout = plan.layout

    def of_replicas(kind: str, pipeline_ranks: Sequence[int]) -> list[Group]:
        return [
            Group(kind, tuple(layout.rank(Place(p, replica)) for p in pipeline_ranks))
            for replica in range(layout.replicas)
        ]

    found = [group for pair in channels(plan) for group in of_replicas("channel", pair)]
    for tied in plan.tied:
        sharing = sorted({layout.pipeline_rank_of[s] for s in tied.stages})
        # Stages of one rank share the parameter itself; parameters of the same ranks share the group.
        found += of_replicas("tied", sharing) if len(sharing) > 1 else []
    if layout.replicas > 1:
        ranks = [layout.replica_ranks(p) for p in range(layout.pipeline_ranks)]
        found += [Group("replicas", tuple(same_stages)) for same_stages in ranks]
    if plan.ranks > 1:
        found.append(Group("all", tuple(range(plan.ranks))))
    return in_phases(dict.fromkeys(found))


def in_phases(groups: Iterable[Group]) -> list[Group]:
    """Sorted so that groups without a rank in common can open at once.

    Each is in the first phase that has none of its ranks.
    """
    phases: dict[int, set[int]] = defaultdict(set)
    placed: list[tuple[int, Group]] = []
    for group in groups:
        phase = next(
            n
            for n in range(len(placed) + 1)
            if n not in phases or phases[n].isdisjoint(group.ranks)
        )
        phases[phase] |= set(group.ranks)
        placed.append((phase, group))
    return [group for _, group in sorted(placed, key=lambda one: one[0])]
