"""What is fixed before operators are placed, and what may be tried where the job says auto."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipecut.compiler.inputs.auto import AUTO, Auto, or_auto
from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.inputs.job import Job, JobSpec, location_in_job
from pipecut.compiler.schedules.registry import SCHEDULES, WITH_CHOSEN_STAGES_PER_RANK
from pipecut.device.types import type_of
from pipecut.errors import UserFileError
from pipecut.quantities import counted

T = TypeVar("T")


@dataclass(frozen=True)
class SearchSpace:
    """What job and command line say; AUTO is what the search decides.

    `devices` may be used, with `stages_per_rank` stages on each. `total` is the global batch.
    """

    devices: int
    total: int
    stages: int | Auto
    replicas: int | Auto
    microbatch: int | Auto
    schedule: str | Auto
    stages_per_rank: int = 1

    @property
    def fixed(self) -> bool:
        """Whether nothing is left to decide."""
        return AUTO not in (self.stages, self.replicas, self.microbatch, self.schedule)


@dataclass(frozen=True)
class SizeOverrides:
    """What the command line says over the job file; None is what the job says.

    A size that is "auto" (or 0) is AUTO; so is the schedule "auto". Raises UserFileError for what
    is no size or schedule, and for both `microbatch` and `microbatches`.
    """

    stages: int | Auto | None = None
    replicas: int | Auto | None = None
    microbatch: int | Auto | None = None
    microbatches: int | None = None
    schedule: str | Auto | None = None
    stages_per_rank: int | None = None

    def __post_init__(self) -> None:
        for name in ("stages", "replicas", "microbatch"):
            value = getattr(self, name)
            object.__setattr__(self, name, or_auto(value) if value in (0, AUTO.value) else value)
        if self.schedule == AUTO.value:
            object.__setattr__(self, "schedule", AUTO)
        self._refuse_wrong_values()

    def _refuse_wrong_values(self) -> None:
        for name in ("stages", "replicas", "microbatch", "microbatches", "stages_per_rank"):
            value = getattr(self, name)
            if not (value is None or value is AUTO or (isinstance(value, int) and value >= 1)):
                raise UserFileError(f"{name} {value!r}: must be a number from 1, or auto")
        if self.schedule not in (None, AUTO, *SCHEDULES):
            raise UserFileError(
                f"schedule {self.schedule!r}: must be {', '.join(SCHEDULES)} or auto"
            )
        if self.microbatch is not None and self.microbatches is not None:
            raise UserFileError("give microbatch or microbatches, not both")


def search_space(job: Job, cluster: Cluster, sizes: SizeOverrides) -> SearchSpace:
    """The job's sizes, with those of the command line over them, on a cluster's devices.

    Raises UserFileError.
    """
    devices = usable_devices(cluster, job.spec, sizes)
    return resolve_sizes(job.spec, job.path, devices, sizes)


def usable_devices(cluster: Cluster, spec: JobSpec, sizes: SizeOverrides) -> int:
    """All devices of the cluster; of this machine's CPU one for each core.

    More are used, and share the cores, where more stages are asked for.
    """
    if cluster.name != "auto" or not type_of(cluster.devices[0].type).of_host:
        return len(cluster.devices)
    of_job = spec.stages if spec.layout is None else len(spec.layout.stages)
    stages = _number(sizes.stages, of_job)
    replicas = _number(sizes.replicas, spec.data_parallel)
    ranks = stages // _stages_per_rank(spec, sizes, _over(sizes.schedule, spec.schedule))
    return min(len(cluster.devices), max(os.cpu_count() or 1, ranks * replicas))


def resolve_sizes(spec: JobSpec, path: Path, devices: int, sizes: SizeOverrides) -> SearchSpace:
    """The job's sizes, with those of the command line over them. Raises UserFileError."""
    schedule = _over(sizes.schedule, spec.schedule)
    _refuse_stray_stages_per_rank(spec, path, sizes, schedule)
    stages_per_rank = _stages_per_rank(spec, sizes, schedule)
    replicas = _over(sizes.replicas, spec.data_parallel)
    stages = _with_layout(spec, path, _over(sizes.stages, spec.stages))
    if stages is None:
        # Every device, where nothing else is said.
        filled = AUTO if replicas is AUTO else max(1, devices // replicas) * stages_per_rank
        stages = filled
    space = SearchSpace(
        devices,
        spec.batch.global_,
        stages,
        replicas,
        _microbatch(spec, sizes),
        schedule,
        stages_per_rank,
    )
    _refuse_uneven_stages(space, path)
    _refuse_too_many_devices(space)
    _refuse_undivided_batch(space, path)
    return space


def _with_layout(spec: JobSpec, path: Path, stages: int | Auto | None) -> int | Auto | None:
    """The stages of the job's layout, where it has one. Raises UserFileError for another number."""
    if spec.layout is None:
        return stages
    count = len(spec.layout.stages)
    if isinstance(stages, int) and stages != count:
        raise UserFileError(
            f"{path}: {counted(stages, 'stage')} asked for, and the layout {spec.layout} has "
            f"{count}; leave the number of stages out, or change the layout"
        )
    return count


def _over(override: T | None, job: T) -> T:
    return job if override is None else override


def _number(*sizes: int | Auto | None) -> int:
    """The first that is a number, or 1."""
    return next((size for size in sizes if isinstance(size, int)), 1)


def _stages_per_rank(spec: JobSpec, sizes: SizeOverrides, schedule: str | Auto) -> int:
    if schedule is AUTO:
        return 1
    asked = _over(sizes.stages_per_rank, spec.stages_per_rank)
    return SCHEDULES[schedule].stages_per_rank or asked


def _microbatch(spec: JobSpec, sizes: SizeOverrides) -> int | Auto:
    total, microbatch = spec.batch.global_, _over(sizes.microbatch, spec.batch.microbatch)
    if sizes.microbatches is not None:
        microbatch = -(-total // sizes.microbatches)
    options = {"--microbatch": sizes.microbatch, "--microbatches": sizes.microbatches}
    for option, size in options.items():
        if isinstance(size, int) and size > total:
            raise UserFileError(f"{option} {size}: must be at most the global batch, {total}")
    return microbatch


def _refuse_stray_stages_per_rank(
    spec: JobSpec, path: Path, sizes: SizeOverrides, schedule: str | Auto
) -> None:
    """Most schedules have no stages per rank to choose."""
    chosen = schedule is AUTO or schedule in WITH_CHOSEN_STAGES_PER_RANK
    if not chosen and "stages_per_rank" in spec.model_fields_set and sizes.schedule is None:
        those = " or ".join(WITH_CHOSEN_STAGES_PER_RANK)
        raise UserFileError(
            f"{location_in_job(path, 'stages_per_rank')}: stages_per_rank is for "
            f"schedule: {those}, and this is {schedule}; leave stages_per_rank out, or choose "
            f"{those}"
        )


def _refuse_uneven_stages(space: SearchSpace, path: Path) -> None:
    if space.stages is not AUTO and space.stages % space.stages_per_rank:
        raise UserFileError(
            f"{path}: the {space.schedule} schedule has {space.stages_per_rank} stages on a "
            f"device; {space.stages} stages is no multiple"
        )


def _refuse_too_many_devices(space: SearchSpace) -> None:
    ranks = _number(space.stages) // space.stages_per_rank
    replicas = _number(space.replicas)
    if space.stages is AUTO or ranks * replicas <= space.devices:
        return
    times = f" times {replicas} replicas" if replicas > 1 else ""
    each = f", {space.stages_per_rank} on a device," if space.stages_per_rank > 1 else ""
    raise UserFileError(
        f"{space.stages} stages{each}{times} asked for, but the cluster has "
        f"{counted(space.devices, 'device')}; ask for fewer, or name a larger --cluster"
    )


def _refuse_undivided_batch(space: SearchSpace, path: Path) -> None:
    replicas, microbatch = _number(space.replicas), _number(space.microbatch)
    if replicas > 1 and space.total % (replicas * microbatch):
        sized = f" with microbatches of {microbatch}" if space.microbatch is not AUTO else ""
        raise UserFileError(
            f"{location_in_job(path, 'batch')}: a global batch of {space.total} is no multiple of "
            f"{replicas} replicas{sized}"
        )
