"""Compute orders to actions: sends after what makes them, receives posted ahead, sums of gradients at the end.

A receive is posted one compute ahead of what needs it, or earlier: by when its message is sent, were F, I and W equally long.
Taken in the order of that time, every action finds what it needs done, so no order of real times can make ranks wait in a circle,
even where a send blocks until its receive is posted.
"""

from bisect import bisect_left
from collections.abc import Collection, Sequence

from pipecut.compiler.schedules.order import Compute, duration, start_times
from pipecut.runtime.plan import Action


def lower(
    orders: Sequence[Sequence[Compute]],
    rank_of: Sequence[int],
    forward: Collection[int],
    backward: Collection[int],
    reduce: bool,
) -> list[list[Action]]:
    """Actions of each rank. `rank_of` has the rank of each stage.

    `forward` and `backward` are the boundaries (s, to s+1) that carry activations and gradients; between stages of one rank
    nothing is sent. `reduce` says that gradients are summed over ranks at the end.
    """
    starts = start_times(orders, len(rank_of))

    def over(boundary: int, carrying: Collection[int]) -> bool:
        return boundary in carrying and rank_of[boundary] != rank_of[boundary + 1]

    rows = []
    for rank, order in enumerate(orders):
        ends = [starts[one] + duration(one[0]) for one in order]
        # Before each compute, and after it but before what it sends.
        before: list[list[Action]] = [[] for _ in order]
        after: list[list[Action]] = [[] for _ in order]
        for position, (kind, stage, m) in enumerate(order):
            if kind == "F" and over(stage - 1, forward):
                way, sender = "F", ("F", stage - 1, m)
            elif kind in "BI" and over(stage, backward):
                way, sender = "B", (kind, stage + 1, m)
            else:
                continue
            sent = starts[sender] + duration(sender[0])
            meanwhile = bisect_left(ends, sent)
            # Two ranks may send to each other at the same moment.
            posted = after[meanwhile] if ends[meanwhile] == sent else before[meanwhile]
            ahead = max(0, position - 1)
            (before[ahead] if ahead <= meanwhile else posted).append(Action(f"RECV_{way}", stage, m))
        actions: list[Action] = []
        for (kind, stage, m), first, then in zip(order, before, after, strict=True):
            actions += [*first, Action(kind, stage, m), *then]
            if kind == "F" and over(stage, forward):
                actions.append(Action("SEND_F", stage, m))
            if kind in "BI" and over(stage - 1, backward):
                actions.append(Action("SEND_B", stage, m))
        rows.append([*actions, Action("REDUCE", rank, 0)] if reduce else actions)
    return rows
