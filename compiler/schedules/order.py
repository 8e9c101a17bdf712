"""What the schedules have in common."""

from collections.abc import Callable, Sequence

from pipecut.plan.actions import Compute, Op


def alternating(
    forward: Sequence[tuple[int, int]],
    backward: Sequence[tuple[int, int]],
    ahead: int,
    op: Op,
) -> list[Compute]:
    """Forwards `ahead` of the first backward, then one of each in turn, then the backwards left.

    Forwards and backwards, whose operation is `op`, are given by stage and microbatch.
    """
    warm = min(ahead, len(forward))
    forwards = [Compute("F", stage, microbatch) for stage, microbatch in forward]
    backwards = [Compute(op, stage, microbatch) for stage, microbatch in backward]
    steady = zip(forwards[warm:], backwards, strict=False)
    alternate = [compute for pair in steady for compute in pair]
    return [*forwards[:warm], *alternate, *backwards[len(forwards) - warm :]]


def duration(op: Op) -> int:
    """One unit for F, I and W, two for B."""
    return 2 if op == "B" else 1


def start_times(
    orders: Sequence[Sequence[Compute]],
    stages: int,
    seconds: Callable[[Op, int], int] = lambda op, stage: duration(op),
) -> dict[Compute, int]:
    """When each compute begins; fewer than all where some never can.

    Messages take nothing; `seconds` has what an operation takes on a stage.
    """
    starts: dict[Compute, int] = {}
    ended: dict[Compute, int] = {}
    at, clock = [0] * len(orders), [0] * len(orders)
    moved = True
    while moved:
        moved = False
        for rank, order in enumerate(orders):
            while at[rank] < len(order):
                compute = order[at[rank]]
                needs = needed_by(compute, stages)
                if any(need not in ended for need in needs):
                    break
                starts[compute] = max([clock[rank], *(ended[need] for need in needs)])
                clock[rank] = starts[compute] + seconds(compute.op, compute.stage)
                ended[compute] = clock[rank]
                at[rank] += 1
                moved = True
    return starts


def needed_by(compute: Compute, stages: int) -> list[Compute]:
    """The computes that come before one, by what they make."""
    op, stage, m = compute.op, compute.stage, compute.microbatch
    if op == "F":
        return [Compute("F", stage - 1, m)] if stage else []
    if op == "W":
        return [Compute("I", stage, m)]
    forward = Compute("F", stage, m)
    return [forward, Compute(op, stage + 1, m)] if stage < stages - 1 else [forward]
