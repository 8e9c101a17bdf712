"""What is fixed before operators are placed, and what may be tried where the job says auto."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipecut.compiler.candidate import Candidate
from pipecut.compiler.inputs.document import place_of_key
from pipecut.compiler.inputs.job import AUTO, JobSpec
from pipecut.compiler.schedules.registry import SCHEDULES
from pipecut.errors import UserFileError

# What auto tries with every size; the others with the best of these.
SEARCHED = ("1f1b", "gpipe")


@dataclass(frozen=True)
class SearchSpace:
    """What job and command line say: None is what the search decides. `devices` may be used, `stages_per_rank` stages on each."""

    devices: int
    total: int
    stages: int | None
    replicas: int | None
    microbatch: int | None
    schedule: str | None
    stages_per_rank: int = 1

    @property
    def fixed(self) -> bool:
        """Nothing is left to decide."""
        return None not in (self.stages, self.replicas, self.microbatch, self.schedule)


def candidates(asked: SearchSpace) -> list[Candidate]:
    """All that what was asked leaves open: powers of two and even shares of the devices, on as many devices as they fill."""
    return list(dict.fromkeys(_candidates(asked)))


def _candidates(asked: SearchSpace) -> Iterator[Candidate]:
    for stages in [asked.stages] if asked.stages else _stage_counts(asked):
        ranks = stages // asked.stages_per_rank
        room = asked.devices // ranks
        for replicas in [asked.replicas] if asked.replicas else _powers(room, room):
            if not replicas or asked.total % replicas:
                continue
            share = asked.total // replicas
            sizes = (
                [asked.microbatch]
                if asked.microbatch
                else [b for b in _powers(share, share) if share % b == 0]
            )
            for size in sizes:
                for schedule in [asked.schedule] if asked.schedule else SEARCHED:
                    if ranks * replicas <= asked.devices and (
                        replicas == 1 or asked.total % (size * replicas) == 0
                    ):
                        yield Candidate(
                            stages,
                            replicas,
                            size,
                            -(-asked.total // (size * replicas)),
                            schedule,
                            asked.stages_per_rank,
                        )


def _stage_counts(asked: SearchSpace) -> list[int]:
    devices = max(1, asked.devices // (asked.replicas or 1))
    counts = {
        *_powers(devices, devices),
        *(devices // share for share in range(1, 5) if share <= devices),
    }
    return sorted(count * asked.stages_per_rank for count in counts)


def _powers(limit: int, last: int) -> list[int]:
    """Powers of two up to a limit, and the last itself."""
    return sorted({1 << e for e in range(limit.bit_length()) if 1 << e <= limit} | {last})


@dataclass(frozen=True)
class SizeOverrides:
    """What the command line says over the job file; AUTO is searched for, None is the job's."""

    stages: int | None = None
    replicas: int | None = None
    microbatch: int | None = None
    microbatches: int | None = None
    schedule: str | None = None
    stages_per_rank: int | None = None


def resolve_sizes(spec: JobSpec, path: Path, devices: int, over: SizeOverrides) -> SearchSpace:
    """The job's sizes, with those of the command line over them. Raises UserFileError."""
    total = spec.batch.global_
    copies = spec.data_parallel if over.replicas is None else over.replicas
    count = spec.stages if over.stages is None else over.stages
    said = spec.schedule if over.schedule is None else over.schedule
    if (
        said not in ("interleaved", "auto")
        and over.schedule is None
        and "stages_per_rank" in spec.model_fields_set
    ):
        line, column = place_of_key(path, "stages_per_rank")
        raise UserFileError(
            f"{path}:{line}:{column}: stages_per_rank is for schedule: interleaved, and this is {said}; leave stages_per_rank out, or "
            "choose interleaved"
        )
    stages_per_rank = (
        (spec.stages_per_rank if over.stages_per_rank is None else over.stages_per_rank)
        if said == "interleaved"
        else 1
    )
    if said != "auto":
        stages_per_rank = SCHEDULES[said].stages_per_rank or stages_per_rank
    if count is None:
        # Every device, where nothing else is said.
        count = max(1, devices // copies) * stages_per_rank if copies != AUTO else AUTO
    if count % stages_per_rank:
        raise UserFileError(
            f"{path}: the {said} schedule has {stages_per_rank} stages on a device; {count} stages is no multiple"
        )
    microbatch = spec.batch.microbatch if over.microbatch is None else over.microbatch
    if over.microbatches is not None:
        microbatch = -(-total // over.microbatches)
    for option, size in (("--microbatch", over.microbatch), ("--microbatches", over.microbatches)):
        if size is not None and size > total:
            raise UserFileError(f"{option} {size}: must be at most the global batch, {total}")
    if count // stages_per_rank * max(1, copies) > devices:
        times = f" times {copies} replicas" if copies > 1 else ""
        each = f", {stages_per_rank} on a device," if stages_per_rank > 1 else ""
        raise UserFileError(
            f"{count} stages{each}{times} asked for, but the cluster has {devices} devices"
        )
    if copies > 1 and (total % copies or (microbatch and total % (copies * microbatch))):
        line, column = place_of_key(path, "batch")
        raise UserFileError(
            f"{path}:{line}:{column}: a global batch of {total} is no multiple of {copies} replicas"
            + (f" with microbatches of {microbatch}" if microbatch else "")
        )
    schedule = None if said == "auto" else said
    return SearchSpace(
        devices, total, count or None, copies or None, microbatch or None, schedule, stages_per_rank
    )
