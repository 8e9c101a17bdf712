"""What the schedules have in common."""

from collections.abc import Callable, Sequence

# F, B, or I and W in its place: gradients of inputs and of weights; the stage; the microbatch.
Compute = tuple[str, int, int]


def alternating(
    forward: Sequence[tuple[int, int]], backward: Sequence[tuple[int, int]], ahead: int, kind: str
) -> list[Compute]:
    """Forwards `ahead` of the first backward, then one of each in turns, and the backwards that are left."""
    warm = min(ahead, len(forward))
    order: list[Compute] = [("F", *one) for one in forward[:warm]]
    for there, back in zip(forward[warm:], backward, strict=False):
        order += [("F", *there), (kind, *back)]
    return order + [(kind, *one) for one in backward[len(forward) - warm :]]


def duration(kind: str) -> int:
    """Of F, I and W one unit, of B two."""
    return 2 if kind == "B" else 1


def start_times(
    orders: Sequence[Sequence[Compute]],
    stages: int,
    seconds: Callable[[str, int], int] = lambda kind, stage: duration(kind),
) -> dict[Compute, int]:
    """When each begins; fewer than all where some never can.

    Messages take nothing, a stage's F, B, I or W the `seconds` of its kind, otherwise one unit and B two.
    """
    ends: dict[Compute, int] = {}
    starts: dict[Compute, int] = {}
    at, clock = [0] * len(orders), [0] * len(orders)
    moved = True
    while moved:
        moved = False
        for rank, order in enumerate(orders):
            while at[rank] < len(order):
                kind, stage, m = one = order[at[rank]]
                needs = _needs(kind, stage, m, stages)
                if any(other not in ends for other in needs):
                    break
                starts[one] = max([clock[rank], *(ends[other] for other in needs)])
                clock[rank] = ends[one] = starts[one] + seconds(kind, stage)
                at[rank] += 1
                moved = True
    return starts


def _needs(kind: str, stage: int, m: int, stages: int) -> list[Compute]:
    if kind == "F":
        return [("F", stage - 1, m)] if stage else []
    if kind == "W":
        return [("I", stage, m)]
    return [("F", stage, m), *([(kind, stage + 1, m)] if stage < stages - 1 else [])]
