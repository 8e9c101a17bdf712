"""The order of microbatches of different lengths, for a short step."""

from collections.abc import Sequence
from typing import TypeVar

from pipecut.plan.schema import Rising

T = TypeVar("T")


def balanced(parts: Sequence[T], works: Sequence[int], replicas: int, rising: Rising) -> list[T]:
    """Microbatches in the order in which they are run, by the work of each; as many per replica.

    Each replica has about as much work as others.
    """
    by_work = sorted(range(len(parts)), key=lambda number: works[number])
    share = -(-len(parts) // replicas)
    dealt: list[list[int]] = [[] for _ in range(replicas)]
    # The longest first, each to the replica with the least work that has room. The last replica
    # may have fewer: only it lacks what the others have.
    room = [min(share, max(0, len(parts) - replica * share)) for replica in range(replicas)]
    for number in reversed(by_work):
        free = [r for r in range(replicas) if len(dealt[r]) < room[r]]
        least = min(free, key=lambda r: sum(works[n] for n in dealt[r]))
        dealt[least].append(number)
    return [parts[number] for own in dealt for number in rising_and_falling(own[::-1], rising)]


def rising_and_falling(by_work: Sequence[T], rising: Rising) -> list[T]:
    """Those that rise, and the others falling:

        1 3 5 7 6 4 2

    Others wait for the first forward and the last backward of a rank, so these are short; and while
    a rank has one microbatch, its neighbour has the one before or after, which takes about as long.
    """
    numbers = range(len(by_work))
    up = list(numbers[rising.first :: rising.every])
    down = sorted(set(numbers) - set(up), reverse=True)
    return [by_work[number] for number in (*up, *down)]
