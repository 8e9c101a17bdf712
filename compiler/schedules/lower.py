"""Compute orders to actions: sends after what makes them, receives posted ahead, sums at the end.

Computes and messages are put in one order of all ranks, that of a run in which forwards take about
one unit, backwards two, and a message arrives when it is sent: a compute stands where it ends, a
message where the compute that makes it ends. Each rank does its part of that order; of a message it
sends, or posts the receive. So

- a receive is posted ahead of the compute during which its message is sent, and after everything on
  its rank that the message needs;
- two ranks send and receive each other's messages in one order, which is all that NCCL goes by;
- ranks never wait in a circle, even where a message keeps both of its ranks from anything else
  until they have met: of what is not done, the first in the order can always be done.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from pipecut.compiler.schedules.order import duration, start_times
from pipecut.plan.actions import Action, ActionTable, Compute, Message, Op, Recv, Reduce, Send

# A unit of time. Fractions of it break ties: a stage is slower than the one whose messages it gets,
# forward and backward, so that where both compute at once the receive is posted ahead.
UNIT = 1 << 20
COMPUTE, MESSAGE = 0, 1


class _Key(NamedTuple):
    """When something stands in the order, computes first; `place` is its stage or boundary."""

    end: int
    after: int
    place: int
    kind: str
    microbatch: int


def lower(
    orders: Sequence[Sequence[Compute]],
    pipeline_rank_of: Sequence[int],
    forward: Collection[int],
    backward: Collection[int],
    reduce: bool,
) -> ActionTable:
    """The actions of each rank. `pipeline_rank_of` has the pipeline rank of each stage.

    `forward` and `backward` are the boundaries (s, to s+1) that carry activations and gradients;
    between stages of one rank nothing is sent. `reduce` says that gradients are summed over ranks
    at the end.
    """
    stages = len(pipeline_rank_of)

    def seconds(op: Op, stage: int) -> int:
        slower = {"F": stage, "W": 0}.get(op, stages - stage)
        return duration(op) * UNIT + slower

    def carried(message: Message) -> bool:
        return message.hop.boundary in (forward if message.direction == "F" else backward)

    starts = start_times(orders, stages, seconds)
    rows: list[list[tuple[_Key, Action]]] = [[] for _ in orders]
    for rank, order in enumerate(orders):
        for compute in order:
            op, stage, microbatch = compute.op, compute.stage, compute.microbatch
            end = starts[compute] + seconds(op, stage)
            rows[rank].append((_Key(end, COMPUTE, stage, op, microbatch), compute))
            message = compute.makes
            if message is None or not carried(message):
                continue
            target = pipeline_rank_of[message.receiver]
            if target != rank:
                boundary, direction = message.hop.boundary, message.direction
                key = _Key(end, MESSAGE, boundary, direction, microbatch)
                rows[rank].append((key, Send(message)))
                rows[target].append((key, Recv(message)))
    last = (Reduce(),) if reduce else ()
    return ActionTable((*_in_order(row), *last) for row in rows)


def _in_order(row: Sequence[tuple[_Key, Action]]) -> list[Action]:
    return [action for _, action in sorted(row, key=lambda keyed: keyed[0])]
