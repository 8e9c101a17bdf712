"""Predict a step whose microbatches have lengths of their own."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from pipecut.plan.folder import PlanFolder
from pipecut.plan.replay.simulate import Costs, Timeline, costs_of, simulate, transfers_of
from pipecut.plan.schema import Plan, SecondsAt, Sizes, Stage


def predicted_for(folder: PlanFolder, microbatches: Sequence[Sizes]) -> Timeline:
    """A step of such microbatches: `batch` and the lengths of each, in the order they run.

    Of one replica. Seconds of a stage are those of its share of the longest lengths, and of the
    samples of a whole microbatch.
    """
    whole = costs_of(folder.plan)
    own = [costs_for(folder.plan, whole, sizes) for sizes in microbatches]
    return simulate(folder.actions, replace(whole, by_microbatch=own))


def costs_for(plan: Plan, whole: Costs, sizes: Sizes) -> Costs:
    """The costs of a microbatch of such sizes; `whole` has those of the longest."""
    samples = sizes["batch"] / plan.batch.microbatch
    share = share_of_longest(plan, sizes)
    forward = [samples * _at(stage, share, False) for stage in plan.stages]
    backward = [
        samples * _at(stage, share, True) + (again if stage.recompute else 0.0)
        for stage, again in zip(plan.stages, forward, strict=True)
    ]
    weights = [
        part * b / full if full else 0.0
        for part, b, full in zip(whole.weights, backward, whole.backward, strict=True)
    ]
    transfers = transfers_of(plan, sizes)
    return replace(whole, forward=forward, backward=backward, weights=weights, transfers=transfers)


def seconds_of_all_stages(plan: Plan, sizes: Sizes) -> float:
    """Forward and backward of a microbatch of such sizes, on all stages together."""
    share = share_of_longest(plan, sizes)
    samples = sizes["batch"] / plan.batch.microbatch
    return samples * sum(_at(s, share, False) + _at(s, share, True) for s in plan.stages)


def share_of_longest(plan: Plan, sizes: Sizes) -> float:
    """What lengths are of the longest, in the mean."""
    shares = [sizes[name] / allowed.longest for name, allowed in plan.batch.lengths.items()]
    return sum(shares) / len(shares) if shares else 1.0


def _at(stage: Stage, share: float, backward: bool) -> float:
    """Seconds at a share of the longest lengths, on the line between the shares beside it."""
    shares = [each.share for each in stage.shorter] + [1.0]
    known: list[SecondsAt | Stage] = [*stage.shorter, stage]
    seconds = [each.backward_seconds if backward else each.forward_seconds for each in known]
    if len(shares) == 1:
        return seconds[0]
    right = min(max(bisect_left(shares, share), 1), len(shares) - 1)
    slope = (seconds[right] - seconds[right - 1]) / (shares[right] - shares[right - 1])
    return max(0.0, seconds[right] + slope * (share - shares[right]))
