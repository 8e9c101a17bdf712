"""Compute orders to actions: sends after what makes them, receives posted one compute ahead, sums of gradients at the end."""

from collections.abc import Collection

from pipecut.runtime.plan import Action


def lower(
    orders: list[list[tuple[str, int]]], forward: Collection[int], backward: Collection[int], reduce: bool
) -> list[list[Action]]:
    """Actions of each rank; stage s runs on rank s.

    `forward` and `backward` are the boundaries (s, to s+1) that carry activations and gradients; `reduce` says that gradients are
    summed over ranks at the end.
    """
    return [_rank(stage, order, forward, backward, reduce) for stage, order in enumerate(orders)]


def _rank(
    stage: int, order: list[tuple[str, int]], forward: Collection[int], backward: Collection[int], reduce: bool
) -> list[Action]:
    def receive(kind: str, m: int) -> list[Action]:
        needed = stage - 1 in forward if kind == "F" else stage in backward
        return [Action(f"RECV_{kind}", stage, m)] if needed else []

    actions = receive(*order[0]) if order else []
    for position, (kind, m) in enumerate(order):
        if position + 1 < len(order):
            actions += receive(*order[position + 1])
        actions.append(Action(kind, stage, m))
        if (stage in forward) if kind == "F" else (stage - 1 in backward):
            actions.append(Action(f"SEND_{kind}", stage, m))
    return [*actions, Action("REDUCE", stage, 0)] if reduce else actions
