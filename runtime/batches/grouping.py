"""Which listed samples make up a microbatch: neighbours, or those of like length.

Every rank comes to the same microbatches: all is counted in whole numbers.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipecut.plan.replay.lengths import seconds_of_all_stages, share_of_longest
from pipecut.plan.schema import Plan, Sizes

# What a sample of the longest lengths counts.
LONGEST = 1 << 20
# More than any batch takes.
IMPOSSIBLE = np.int64(1) << 60


def work_of(plan: Plan, sizes: Sizes) -> int:
    """What a microbatch takes on all stages, by the plan's prediction; else by its lengths."""
    longest = seconds_of_all_stages(plan, plan.batch.sizes(1))
    share = share_of_longest(plan, sizes)
    if longest and any(stage.shorter for stage in plan.stages):
        share = seconds_of_all_stages(plan, {**sizes, "batch": 1}) / longest
    return sizes["batch"] * max(1, round(LONGEST * share))


def samples_per_microbatch(plan: Plan, count: int, wanted: int = 0) -> list[int]:
    """Samples of each microbatch of a batch of `count`; the last may have fewer.

    Where these would be fewer microbatches than `wanted`, that many, of as equal sizes as can be.
    """
    size = plan.batch.microbatch
    if plan.batch.dynamic and count_microbatches(plan, count) < wanted <= count:
        each, more = divmod(count, wanted)
        return [each + (number < more) for number in range(wanted)]
    return [min(size, count - start) for start in range(0, count, size)]


def count_microbatches(plan: Plan, count: int) -> int:
    """Microbatches of so many samples, of which the last may be smaller."""
    return -(-count // plan.batch.microbatch)


def grouped(plan: Plan, lengths: Sequence[Sizes], wanted: int = 0) -> list[list[int]]:
    """The samples of each microbatch, by number; `lengths` has those of each sample by name.

    Neighbours where the order is as given, or nothing pads. Where it is balanced, microbatches have
    as little padding as can be, by the plan's prediction: of samples in the order of their work,
    those from one to another, as many as their lengths allow.
    """
    counts = samples_per_microbatch(plan, len(lengths), wanted)
    order = list(range(len(lengths)))
    # Without pad, the compiler did not ask whether the loss takes other samples together.
    if plan.batch.order == "balanced" and plan.batch.pad:
        works = [work_of(plan, {**each, "batch": 1}) for each in lengths]
        order.sort(key=lambda number: works[number])
        if plan.batch.dynamic and counts:
            counts = _least_padding(plan, [lengths[number] for number in order], len(counts))
    ends = np.cumsum(counts).tolist()
    return [order[end - count : end] for end, count in zip(ends, counts, strict=True)]


def _least_padding(plan: Plan, lengths: Sequence[Sizes], groups: int) -> list[int]:
    """How many samples each of so many microbatches has, of samples in the order of their work.

    Dynamic programming: of the first samples in so many microbatches, the least work.
    """
    work = _work_of_windows(plan, lengths)
    count = len(lengths)
    least: NDArray[np.int64] = np.full(count + 1, IMPOSSIBLE)
    least[0] = 0
    chosen = np.zeros((groups, count + 1), dtype=np.int32)
    for group in range(groups):
        best: NDArray[np.int64] = np.full(count + 1, IMPOSSIBLE)
        for size, of_windows in enumerate(work, start=1):
            with_window = least[: count + 1 - size] + of_windows
            better = with_window < best[size:]
            best[size:][better] = with_window[better]
            chosen[group, size:][better] = size
        least = best
    sizes: list[int] = []
    end = count
    for group in reversed(range(groups)):
        sizes.insert(0, int(chosen[group, end]))
        end -= sizes[0]
    return sizes


def _work_of_windows(plan: Plan, lengths: Sequence[Sizes]) -> list[NDArray[np.int64]]:
    """For 1, 2 and more samples: the work of those, padded to the longest, from each sample on."""
    batch = plan.batch
    most = batch.more_samples.samples if batch.more_samples else batch.microbatch
    known: dict[tuple[int, ...], int] = {}
    longest = [dict(each) for each in lengths]
    windows = []
    for size in range(1, min(most, len(lengths)) + 1):
        works = np.full(len(longest), IMPOSSIBLE)
        for first, sizes in enumerate(longest):
            if size <= batch.most_samples(sizes):
                key = tuple(sizes.values())
                if key not in known:
                    known[key] = work_of(plan, {**sizes, "batch": 1})
                works[first] = size * known[key]
        windows.append(works)
        longest = [
            {name: max(most_of, after[name]) for name, most_of in sizes.items()}
            for sizes, after in zip(longest, lengths[size:], strict=False)
        ]
    return windows
