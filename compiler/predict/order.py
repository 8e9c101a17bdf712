"""The order in which microbatches of different lengths run: chosen by the predicted step."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pipecut.plan.actions import Action
from pipecut.plan.replay.lengths import costs_for
from pipecut.plan.replay.simulate import Costs, costs_of, simulate
from pipecut.plan.schema import Plan, Rising
from pipecut.runtime.batches.order import rising_and_falling

# Orders that are tried, the usual one first. Of those that a search over all orders found for plans
# of 2 and 4 ranks, each schedule's best one is near to one of these (tests/compiler/predict).
TRIED = (
    Rising(),
    Rising(every=3),
    Rising(every=4),
    *(Rising(first=-longest, every=1) for longest in (1, 2, 4)),
)
# Another order than the usual one is worth a line of the plan where its step is so much shorter.
SHORTER = 0.01
# With more actions the usual order is taken: each order that is tried replays all of them.
MOST_ACTIONS = 20_000


def with_order(plan: Plan, actions: Sequence[Sequence[Action]]) -> Plan:
    """The plan with the order that makes its steps shortest, where it orders microbatches."""
    batch = plan.batch
    small = sum(map(len, actions)) <= MOST_ACTIONS
    if batch.order != "balanced" or not batch.lengths or plan.microbatches < 3 or not small:
        return plan
    whole = costs_of(plan)
    own = list(_spreads(plan, whole))

    def seconds(rising: Rising) -> float:
        steps = (replace(whole, by_microbatch=rising_and_falling(each, rising)) for each in own)
        return sum(simulate(actions, costs).step_seconds for costs in steps)

    steps = {rising: seconds(rising) for rising in TRIED}
    best = min(TRIED, key=lambda rising: steps[rising])
    if steps[best] > (1 - SHORTER) * steps[TRIED[0]]:
        return plan
    return plan.model_copy(update={"batch": batch.model_copy(update={"rising": best})})


def _spreads(plan: Plan, whole: Costs) -> Iterator[list[Costs]]:
    """Microbatches from the shortest to the longest: as many of each length, and mostly short."""
    last = plan.microbatches - 1
    for power in (1.0, 3.0):
        yield [
            costs_for(plan, whole, {"batch": plan.batch.microbatch, **lengths})
            for lengths in (
                {
                    name: round(of.shortest + (of.longest - of.shortest) * (k / last) ** power)
                    for name, of in plan.batch.lengths.items()
                }
                for k in range(plan.microbatches)
            )
        ]
