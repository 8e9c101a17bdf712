"""Compute orders to actions: sends after what makes them, receives posted ahead, sums at the end.

Computes and messages are put in one order of all ranks, that of a run in which forwards take about one
unit, backwards two, and a message arrives when it is sent: a compute stands where it ends, a message
where the compute that makes it ends. Each rank does its part of that order; of a message it sends, or
posts the receive. So

- a receive is posted ahead of the compute during which its message is sent, and after everything on
  its rank that the message needs;
- two ranks send and receive each other's messages in one order, which is all that NCCL goes by;
- ranks never wait in a circle, even where a message keeps both of its ranks from anything else until
  they have met: of what is not done, the first in the order can always be done.
"""

from collections.abc import Collection, Sequence

from pipecut.compiler.schedules.order import Compute, start_times
from pipecut.plan.schema import Action

# A unit of time. What is less breaks ties: a stage is slower than the one whose messages it gets,
# forward and backward, so that where both compute at once the receive is posted ahead.
UNIT = 1 << 20
# When something stands in the order, computes first; then its boundary or stage, kind and microbatch.
Key = tuple[int, int, int, str, int]


def lower(
    orders: Sequence[Sequence[Compute]],
    pipeline_rank_of: Sequence[int],
    forward: Collection[int],
    backward: Collection[int],
    reduce: bool,
) -> list[list[Action]]:
    """Actions of each rank. `rank_of` has the rank of each stage.

    `forward` and `backward` are the boundaries (s, to s+1) that carry activations and gradients;
    between stages of one rank nothing is sent. `reduce` says that gradients are summed over ranks at
    the end.
    """
    stages = len(pipeline_rank_of)

    def seconds(kind: str, stage: int) -> int:
        return {"F": UNIT + stage, "W": UNIT}.get(
            kind, (2 if kind == "B" else 1) * UNIT + stages - stage
        )

    starts = start_times(orders, stages, seconds)
    rows: list[list[tuple[Key, Action]]] = [[] for _ in orders]
    for rank, order in enumerate(orders):
        for kind, stage, m in order:
            end = starts[kind, stage, m] + seconds(kind, stage)
            rows[rank].append(((end, 0, stage, kind, m), Action(kind, stage, m)))
            way, boundary, carrying = (
                ("F", stage, forward) if kind == "F" else ("B", stage - 1, backward)
            )
            if (
                kind == "W"
                or boundary not in carrying
                or pipeline_rank_of[boundary] == pipeline_rank_of[boundary + 1]
            ):
                continue
            other, key = stage + (1 if way == "F" else -1), (end, 1, boundary, way, m)
            rows[rank].append((key, Action(f"SEND_{way}", stage, m)))
            rows[pipeline_rank_of[other]].append((key, Action(f"RECV_{way}", other, m)))
    actions = [[action for _, action in sorted(row, key=lambda entry: entry[0])] for row in rows]
    return (
        [[*row, Action("REDUCE", rank, 0)] for rank, row in enumerate(actions)]
        if reduce
        else actions
    )
