"""The candidates that a search space leaves open."""

from collections.abc import Iterator

from pipecut.compiler.candidate import Candidate
from pipecut.compiler.inputs.auto import AUTO
from pipecut.compiler.schedules.registry import SCHEDULES
from pipecut.compiler.search.sizes import SearchSpace

# Tried with every size; the other schedules are tried with the best sizes of these.
SEARCHED = tuple(schedule.name for schedule in SCHEDULES.values() if schedule.searched)
# Numbers of stages that fill the devices: all of them, or even shares for this many replicas.
MOST_EVEN_SHARES = 4


def candidates(space: SearchSpace) -> list[Candidate]:
    """Powers of two and even shares of the devices, on as many devices as they fill."""
    return list(dict.fromkeys(_candidates(space)))


def smallest_microbatch(space: SearchSpace) -> int:
    """The microbatch to trace the model with first."""
    if space.microbatch is not AUTO:
        return space.microbatch
    return min((candidate.microbatch for candidate in candidates(space)), default=1)


def _candidates(space: SearchSpace) -> Iterator[Candidate]:
    schedules = SEARCHED if space.schedule is AUTO else (space.schedule,)
    for stages in _stage_counts(space):
        ranks = stages // space.stages_per_rank
        for replicas in _replica_counts(space, ranks):
            for microbatch in _microbatches(space, replicas):
                count = -(-space.total // (microbatch * replicas))
                for schedule in schedules:
                    yield Candidate(
                        stages, replicas, microbatch, count, schedule, space.stages_per_rank
                    )


def _stage_counts(space: SearchSpace) -> list[int]:
    if space.stages is not AUTO:
        return [space.stages]
    devices = max(1, space.devices // (1 if space.replicas is AUTO else space.replicas))
    shares = range(1, min(MOST_EVEN_SHARES, devices) + 1)
    counts = {*_powers(devices, devices), *(devices // share for share in shares)}
    return sorted(count * space.stages_per_rank for count in counts)


def _replica_counts(space: SearchSpace, ranks: int) -> list[int]:
    """Numbers of replicas that divide the global batch and for which there are devices."""
    most = space.devices // ranks
    counts = _powers(most, most) if space.replicas is AUTO else [space.replicas]
    return [count for count in counts if 1 <= count <= most and space.total % count == 0]


def _microbatches(space: SearchSpace, replicas: int) -> list[int]:
    """Microbatches that divide a replica's share of the global batch; one replica may take any."""
    share = space.total // replicas
    if space.microbatch is AUTO:
        return [size for size in _powers(share, share) if share % size == 0]
    return [space.microbatch] if replicas == 1 or share % space.microbatch == 0 else []


def _powers(limit: int, last: int) -> list[int]:
    """Powers of two up to a limit, and `last`."""
    return sorted({1 << e for e in range(limit.bit_length()) if 1 << e <= limit} | {last})
