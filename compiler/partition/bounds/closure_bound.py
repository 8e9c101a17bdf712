"""What no placement beats, over all topological orders at once.

Stage after stage, the closures (`closures.py`) that can stand before the next boundary are sought
for a bottleneck T, as a chain's ends are (`chain.py`). Of those reached only the ones matter that
no other beats in seconds and bytes, which are few: the front. That a stage's end holds its start
is not asked within a segment, and of what several blocks use only what weighs most is counted: on
a stage whose end has more of its users than its start. Where nothing is reached T is a bound, and
no more is said.

Loose blocks are work that each stage takes as early and as much of as it has time for, fractions
too: x seconds of it are done before a boundary, no less than is due and no more than is free there.
What is done before it is due sends its results over the boundary, which takes both stages longer.
"""

from dataclasses import dataclass

import numpy as np

from pipecut.compiler.partition.bounds.closures import Closures, closures_of
from pipecut.compiler.partition.chain.prefix_sums import Bools, Floats
from pipecut.compiler.partition.problem import Problem, StageDevice

PRECISION = 2e-4
# First questions: shares of the known bottleneck by which a bound may lie below it.
SHARES_BELOW = (5e-7, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


def closure_bound(problem: Problem, low: float, high: float) -> float:
    """The largest bottleneck between two that provably nothing reaches.

    `low` when there are too many closures to say. Infinite where `high` is, and nothing fits
    whatever the bottleneck.
    """
    closures = closures_of(problem) if problem.comm == "relay" and not problem.devices else None
    if closures is None:
        return low
    search = _Search(problem, closures)
    if not np.isfinite(high):
        return low if search.reaches(high) else high
    # Most often the known bottleneck is all but optimal, and the first question settles it.
    start = high
    for share in SHARES_BELOW:
        target = start * (1 - share)
        if target <= low:
            break
        if not search.reaches(target):
            low = target
            break
        high = target
    while high - low > PRECISION * high:
        middle = (low + high) / 2
        low, high = (low, middle) if search.reaches(middle) else (middle, high)
    return low


class _Columns:
    """The columns of a table of starts: what stands before a stage that begins with each closure.

    For each recompute choice of the stage: the seconds before it with the loose ones done there,
    the seconds without them, the bytes. Then, for each of `several`, the number of users before it:
    the more of them, the less often a stage that begins there has it. More is better in all of
    them.
    """

    def __init__(self, choices: int, several: int) -> None:
        self.choices = choices
        self.width = 3 * choices + several
        # The columns that grow with the loose seconds done.
        self.grows = np.zeros(self.width, dtype=bool)
        self.grows[[self.seconds_with_loose(choice) for choice in range(choices)]] = True

    def seconds_with_loose(self, choice: int) -> int:
        """Column of the seconds, loose ones included."""
        return 3 * choice

    def seconds(self, choice: int) -> int:
        """Column of the seconds of blocks that are not loose."""
        return 3 * choice + 1

    def bytes(self, choice: int) -> int:
        """Column of the bytes."""
        return 3 * choice + 2

    def users(self, several: int) -> int:
        """Column of the users of one of `several`."""
        return 3 * self.choices + several


@dataclass(frozen=True)
class _Starts:
    """A row for each closure that a stage may begin with, no loose block done.

    `highest[k]` has the largest of each column in the first parts up to k, all free loose blocks
    done.
    """

    rows: Floats
    highest: Floats


@dataclass(frozen=True)
class _Ends:
    """Seconds and bytes of a stage that would begin with nothing, by the closure it ends with."""

    seconds: Floats
    bytes: Floats
    due: Floats
    free: Floats
    users: list[Floats]


class _Search:
    def __init__(self, problem: Problem, closures: Closures) -> None:
        self.closures = closures
        self.stage_devices, self.choices = problem.stage_devices, problem.recompute_choices
        self.columns = _Columns(len(self.choices), len(closures.several))
        self.starts_of_stage: dict[int, _Starts] = {}
        # The least seconds of a closure in each part.
        self.earliest = {
            kind: np.minimum.reduceat(row, closures.starts[:-1])
            for kind, row in closures.amounts.seconds.items()
        }

    def reaches(self, target: float) -> bool:
        """Whether the last stage can end with everything, no stage above `target` seconds."""
        front = np.zeros((1, self.columns.width))
        for stage in range(len(self.stage_devices) - 1):
            front = self._next_front(stage, front, target)
            if not len(front):
                return False
        return self._ends_with_everything(front, target)

    def _ends_with_everything(self, front: Floats, target: float) -> bool:
        device, closures = self.stage_devices[-1], self.closures
        loose = np.array([closures.loose])
        for choice, recompute in enumerate(self.choices):
            everything = _Ends(
                closures.everything.seconds_on(device, recompute),
                closures.everything.bytes_on(device, recompute),
                loose,
                loose,
                [np.array([count]) for count in closures.all_users],
            )
            spare = self._spare_seconds(device, choice, everything, front, target)
            if (spare > -np.inf).any():
                return True
        return False

    def _next_front(self, stage: int, front: Floats, target: float) -> Floats:
        """Of the closures that a stage can end with, those that none beats as the next start.

        Part by part from the last that may be reached, until one found beats all before.
        """
        device, closures = self.stage_devices[stage], self.closures
        next_starts = self._starts(stage + 1)
        sent = self._seconds_over(stage)
        seconds = [closures.amounts.seconds_on(device, recompute) for recompute in self.choices]
        bytes_ = [closures.amounts.bytes_on(device, recompute) for recompute in self.choices]
        next_front = np.zeros((0, self.columns.width))
        for number in range(self._last_part(device, front, target) - 1, -1, -1):
            highest = next_starts.highest[number]
            if len(next_front) and (next_front >= highest).all(axis=1).any():
                break
            part = closures.part(number)
            work = closures.loose_work
            due, free = work.due[part], work.free[part]
            users = [row[part] for row in closures.users]
            loose_done = np.full(len(due), -np.inf)
            for choice in range(len(self.choices)):
                stage_seconds = seconds[choice][part] + sent[part]
                stage_ends = _Ends(stage_seconds, bytes_[choice][part], due, free, users)
                spare = self._spare_seconds(device, choice, stage_ends, front, target)
                loose_done = np.maximum(loose_done, spare.max(axis=1))
            is_reached = loose_done > -np.inf
            spared = work.worth(part, np.where(is_reached, loose_done, 0.0), device)[is_reached]
            reached = next_starts.rows[part][is_reached] + np.outer(spared, self.columns.grows)
            next_front = unbeaten(np.concatenate([next_front, reached]))
        return next_front

    def _last_part(self, device: StageDevice, front: Floats, target: float) -> int:
        """The part from which on every closure is too many seconds after all starts."""
        latest = front[:, self.columns.seconds(0)].max() + target
        return int(np.searchsorted(self.earliest[device.kind], latest, side="right"))

    def _spare_seconds(
        self, device: StageDevice, choice: int, stage_ends: _Ends, front: Floats, target: float
    ) -> Floats:
        """Loose seconds that may be done by each end after each start; -inf where none is possible.

        Not possible: more bytes than the device has, more seconds than the target with the loose
        blocks that are due.
        """
        columns = self.columns
        shared_seconds, shared_bytes = self._shared(device, choice, stage_ends.users, front)
        seconds = stage_ends.seconds[:, None] + shared_seconds
        bytes_ = stage_ends.bytes[:, None] + shared_bytes
        with_loose = front[None, :, columns.seconds_with_loose(choice)]
        is_possible = seconds - front[None, :, columns.seconds(choice)] <= target
        is_possible &= seconds + stage_ends.due[:, None] - with_loose <= target
        is_possible &= bytes_ - front[None, :, columns.bytes(choice)] <= device.capacity
        return np.where(is_possible, target - seconds + with_loose, -np.inf)

    def _shared(
        self, device: StageDevice, choice: int, users: list[Floats], front: Floats
    ) -> tuple[Floats, Floats]:
        """Seconds and bytes, by end and start, of what a stage has that has some of its users."""
        recompute = self.choices[choice]
        seconds, bytes_ = np.zeros((2, len(users[0]) if users else 1, len(front)))
        for at, shared in enumerate(self.closures.several):
            has_some: Bools = users[at][:, None] > front[None, :, self.columns.users(at)]
            size = float(shared.bytes_with(device.saved_microbatches(recompute)))
            seconds = seconds + has_some * shared.seconds_on(device.kind, recompute)
            bytes_ = bytes_ + has_some * size
        return seconds, bytes_

    def _starts(self, stage: int) -> _Starts:
        if stage not in self.starts_of_stage:
            device, closures = self.stage_devices[stage], self.closures
            received = device.in_flight * closures.crossing.forward_bytes
            columns: list[Floats] = []
            for recompute in self.choices:
                amounts = closures.amounts
                seconds = amounts.seconds_on(device, recompute) - self._seconds_over(stage - 1)
                columns += [seconds, seconds, amounts.bytes_on(device, recompute) - received]
            rows = np.stack([*columns, *closures.users], axis=1)
            work, everything = closures.loose_work, slice(None)
            link = self.stage_devices[stage - 1]
            spared = work.worth(everything, np.full(len(work.free), np.inf), link)
            with_loose = rows + np.outer(spared, self.columns.grows)
            highest = np.maximum.reduceat(with_loose, closures.starts[:-1], axis=0)
            self.starts_of_stage[stage] = _Starts(rows, np.maximum.accumulate(highest, axis=0))
        return self.starts_of_stage[stage]

    def _seconds_over(self, stage: int) -> Floats:
        """Seconds across the boundary after a stage, for each closure."""
        return self.closures.crossing.seconds_over(self.stage_devices[stage])


def unbeaten(rows: Floats) -> Floats:
    """The rows that no other row equals or exceeds in every column."""
    rows = rows[np.argsort(-rows.sum(axis=1), kind="stable")]
    result = []
    while len(rows):
        best = rows[0]
        result.append(best)
        rows = rows[(rows > best).any(axis=1)]
    return np.array(result) if result else rows
