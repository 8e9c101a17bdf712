"""What is fixed before operators are placed, and what may be tried where the job says auto."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipecut.compiler.document import place_of
from pipecut.compiler.job import AUTO, JobSpec
from pipecut.compiler.schedules import ORDERS, in_flight
from pipecut.errors import UserFileError


@dataclass(frozen=True)
class Candidate:
    """Stages, replicas of each, samples a microbatch, microbatches a step of each replica, and their schedule."""

    stages: int
    replicas: int
    microbatch: int
    microbatches: int
    schedule: str

    def flights(self, stages: int) -> tuple[int, ...]:
        """Microbatches in flight on each of a number of stages."""
        return in_flight(self.schedule, stages, self.microbatches)


@dataclass(frozen=True)
class Asked:
    """What job and command line say: None is what the search decides. `devices` may be used."""

    devices: int
    total: int
    stages: int | None
    replicas: int | None
    microbatch: int | None
    schedule: str | None

    @property
    def fixed(self) -> bool:
        """Nothing is left to decide."""
        return None not in (self.stages, self.replicas, self.microbatch, self.schedule)


def candidates(asked: Asked) -> list[Candidate]:
    """All that what was asked leaves open: powers of two and even shares of the devices, on as many devices as they fill."""
    return list(dict.fromkeys(_candidates(asked)))


def _candidates(asked: Asked) -> Iterator[Candidate]:
    for stages in [asked.stages] if asked.stages else _stage_counts(asked):
        room = asked.devices // stages
        for replicas in [asked.replicas] if asked.replicas else _powers(room, room):
            if not replicas or asked.total % replicas:
                continue
            share = asked.total // replicas
            sizes = [asked.microbatch] if asked.microbatch else [b for b in _powers(share, share) if share % b == 0]
            for size in sizes:
                for schedule in [asked.schedule] if asked.schedule else sorted(ORDERS):
                    if stages * replicas <= asked.devices and (replicas == 1 or asked.total % (size * replicas) == 0):
                        yield Candidate(stages, replicas, size, -(-asked.total // (size * replicas)), schedule)


def _stage_counts(asked: Asked) -> list[int]:
    devices = max(1, asked.devices // (asked.replicas or 1))
    return sorted({*_powers(devices, devices), *(devices // share for share in range(1, 5) if share <= devices)})


def _powers(limit: int, last: int) -> list[int]:
    """Powers of two up to a limit, and the last itself."""
    return sorted({1 << e for e in range(limit.bit_length()) if 1 << e <= limit} | {last})


@dataclass(frozen=True)
class Sizes:
    """What the command line says over the job file; AUTO is searched for, None is the job's."""

    stages: int | None = None
    replicas: int | None = None
    microbatch: int | None = None
    microbatches: int | None = None
    schedule: str | None = None


def asked_for(spec: JobSpec, path: Path, devices: int, over: Sizes) -> Asked:
    """The job's sizes, with those of the command line over them. Raises UserFileError."""
    total = spec.batch.global_
    copies = spec.data_parallel if over.replicas is None else over.replicas
    count = spec.stages if over.stages is None else over.stages
    if count is None:
        # Every device, where nothing else is said.
        count = max(1, devices // copies) if copies != AUTO else AUTO
    microbatch = spec.batch.microbatch if over.microbatch is None else over.microbatch
    if over.microbatches is not None:
        microbatch = -(-total // over.microbatches)
    for option, size in (("--microbatch", over.microbatch), ("--microbatches", over.microbatches)):
        if size is not None and size > total:
            raise UserFileError(f"{option} {size}: must be at most the global batch, {total}")
    if count * max(1, copies) > devices:
        times = f" times {copies} replicas" if copies > 1 else ""
        raise UserFileError(f"{count} stages{times} asked for, but the cluster has {devices} devices")
    if copies > 1 and (total % copies or (microbatch and total % (copies * microbatch))):
        line, column = place_of(path, "batch")
        raise UserFileError(
            f"{path}:{line}:{column}: a global batch of {total} is no multiple of {copies} replicas"
            + (f" with microbatches of {microbatch}" if microbatch else "")
        )
    said = spec.schedule if over.schedule is None else over.schedule
    return Asked(devices, total, count or None, copies or None, microbatch or None, None if said == "auto" else said)
