"""What no placement beats, over all topological orders at once.

Stage after stage the closures (`closures.py`) that can stand before the next boundary are found for a bottleneck T, as a chain's
ends are (`chain.py`). Of those reached only the ones matter that no other beats in seconds and bytes, which are few. That a
stage's end holds its start is not asked within a segment, and of what several blocks use only what weighs most is counted: on
a stage whose end has more of its users than its start. Where nothing is reached T is a bound, and no more is said.

Loose blocks are work that each stage takes as early and as much of as it has time for, fractions too: x seconds of it are done
before a boundary, no less than is due and no more than is free there.
"""

from dataclasses import dataclass

import numpy as np

from pipecut.compiler.partition.bounds.closures import Closures, closures_of
from pipecut.compiler.partition.chain.windows import Floats
from pipecut.compiler.partition.problem import Problem, StageDevice

PRECISION = 2e-4
# Columns of a start, for each way of the stage: seconds before it with the loose ones, without them, bytes. After them the users
# before it of each of what several blocks use: the more of them, the less often a stage that begins there has it.
WITH, WITHOUT, BYTES = 0, 1, 2


def closure_bound(problem: Problem, low: float, high: float) -> float:
    """The largest bottleneck between two that provably nothing reaches; `low` when there are too many closures to say.

    Infinite where `high` is, and nothing fits whatever the bottleneck.
    """
    closures = closures_of(problem) if problem.comm == "relay" and not problem.devices else None
    if closures is None:
        return low
    search = _Search(problem, closures)
    if not np.isfinite(high):
        return low if search.reaches(high) else high
    # Most often what is known is all but optimal, and the first question settles it.
    known = high
    for share in (5e-7, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2):
        if (asked := known * (1 - share)) <= low:
            break
        if not search.reaches(asked):
            low = asked
            break
        high = asked
    while high - low > PRECISION * high:
        middle = (low + high) / 2
        low, high = (low, middle) if search.reaches(middle) else (middle, high)
    return low


@dataclass(frozen=True)
class _Starts:
    """What a stage that begins with each closure starts from, no loose block done; and the most of it in each part so far."""

    columns: Floats
    highest: Floats


class _Search:
    def __init__(self, problem: Problem, closures: Closures) -> None:
        self.problem, self.closures, self.recompute_choices = (
            problem,
            closures,
            problem.recompute_choices,
        )
        self.known: dict[int, _Starts] = {}
        self.earliest = {
            k: np.minimum.reduceat(row, closures.starts[:-1])
            for k, row in closures.amounts.seconds.items()
        }
        # The columns that grow with the loose seconds done.
        self.width = 3 * len(self.recompute_choices) + len(closures.several)
        self.grows = np.array(
            [
                column % 3 == WITH and column < 3 * len(self.recompute_choices)
                for column in range(self.width)
            ]
        )

    def _transfers(self, boundary: int) -> Floats:
        """Seconds over the boundary before stage `boundary`."""
        link = self.problem.stage_devices[boundary - 1]
        return self.closures.over_both / link.bandwidth + self.closures.messages * link.latency

    def _starts(self, stage: int) -> _Starts:
        if stage not in self.known:
            slot, c = self.problem.stage_devices[stage], self.closures
            columns = []
            for recompute in self.recompute_choices:
                seconds = c.amounts.work(slot, recompute) - self._transfers(stage)
                columns += [
                    seconds,
                    seconds,
                    c.amounts.held(slot, recompute) - slot.in_flight * c.over_forward,
                ]
            table = np.stack([*columns, *c.users], axis=1)
            highest = np.maximum.reduceat(
                table + np.outer(c.free, self.grows), c.starts[:-1], axis=0
            )
            self.known[stage] = _Starts(table, np.maximum.accumulate(highest, axis=0))
        return self.known[stage]

    def reaches(self, target: float) -> bool:
        """Whether the last stage can end with everything, no stage above `target` seconds."""
        front = np.zeros((1, self.width))
        for stage in range(len(self.problem.stage_devices) - 1):
            front = self._following(stage, front, target)
            if not len(front):
                return False
        slot, whole = self.problem.stage_devices[-1], self.closures.whole
        everyone = [np.array([count]) for count in self.closures.all_users]
        for way, recompute in enumerate(self.recompute_choices):
            seconds, bytes_ = self._shared(slot, recompute, everyone, front)
            work = whole.work(slot, recompute) + seconds[0]
            before = front[:, 3 * way : 3 * way + 3]
            fits = whole.held(slot, recompute) + bytes_[0] - before[:, BYTES] <= slot.capacity
            fast = (work + self.closures.loose - before[:, WITH] <= target) & (
                work - before[:, WITHOUT] <= target
            )
            if (fits & fast).any():
                return True
        return False

    def _shared(
        self, slot: StageDevice, recompute: bool, users: list[Floats], front: Floats
    ) -> tuple[Floats, Floats]:
        """Seconds and bytes, by end and start, of what a stage has that has some of its users; `users` before each end."""
        first = 3 * len(self.recompute_choices)
        seconds, bytes_ = np.zeros((2, len(users[0]) if users else 1, len(front)))
        for at, shared in enumerate(self.closures.several):
            some = users[at][:, None] > front[None, :, first + at]
            seconds = seconds + some * shared.seconds_on(slot.kind, recompute)
            bytes_ = bytes_ + some * float(shared.bytes_with(slot.saved_microbatches(recompute)))
        return seconds, bytes_

    def _following(self, stage: int, front: Floats, target: float) -> Floats:
        """Of the closures that a stage can end with, those that none beats as a start of the next.

        Part by part from the last that may be reached, until what was found beats all before.
        """
        slot, c = self.problem.stage_devices[stage], self.closures
        following = self._starts(stage + 1)
        found = np.zeros((0, front.shape[1]))
        last = int(
            np.searchsorted(
                self.earliest[slot.kind], front[:, WITHOUT].max() + target, side="right"
            )
        )
        transfers = self._transfers(stage + 1)
        work, held = (
            [amount(slot, way) for way in self.recompute_choices]
            for amount in (c.amounts.work, c.amounts.held)
        )
        for k in range(last - 1, -1, -1):
            if len(found) and (found >= following.highest[k]).all(axis=1).any():
                break
            part = slice(c.starts[k], c.starts[k + 1])
            done = np.full(c.starts[k + 1] - c.starts[k], -np.inf)
            for way in range(len(self.recompute_choices)):
                before = front[:, 3 * way : 3 * way + 3]
                own, bytes_ = self._shared(
                    slot, self.recompute_choices[way], [users[part] for users in c.users], front
                )
                seconds = (work[way][part] + transfers[part])[:, None] + own
                used = held[way][part][:, None] + bytes_
                possible = seconds - before[None, :, WITHOUT] <= target
                possible &= seconds + c.due[part][:, None] - before[None, :, WITH] <= target
                possible &= used - before[None, :, BYTES] <= slot.capacity
                loose = target - seconds + before[None, :, WITH]
                done = np.maximum(done, np.where(possible, loose, -np.inf).max(axis=1))
            reached = done > -np.inf
            done = np.minimum(done, c.free[part])[reached]
            found = _unbeaten(
                np.concatenate(
                    [found, following.columns[part][reached] + np.outer(done, self.grows)]
                )
            )
        return found


def _unbeaten(rows: Floats) -> Floats:
    """The rows that no other row equals or exceeds in every column."""
    rows = rows[np.argsort(-rows.sum(axis=1), kind="stable")]
    result = []
    while len(rows):
        best = rows[0]
        result.append(best)
        rows = rows[(rows > best).any(axis=1)]
    return np.array(result) if result else rows
