"""Why nothing fits, and the least that would."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pipecut.compiler.partition.chain.chain import chain_cuts
from pipecut.compiler.partition.chain.prefix_sums import received_bytes
from pipecut.compiler.partition.memory import peak_bytes
from pipecut.compiler.partition.problem import Block, Problem, StageDevice, Stages
from pipecut.errors import InfeasibleError
from pipecut.quantities import counted, show_bytes

# Microbatches in flight on each stage, for a number of stages.
InFlightPerStage = Callable[[int], tuple[int, ...]]
# Up to so many stages are tried.
MOST_STAGES = 256
# Halvings of the interval that the least scale lies in: to a billionth of it.
HALVINGS = 30


@dataclass(frozen=True)
class Remedies:
    """What whoever asked can change: the options for stages and for a device's memory, if any.

    `of_job`: there is a job file, too, with microbatches and recompute.
    """

    stages: str = "--stages"
    memory: str | None = None
    of_job: bool = True


OF_JOB = Remedies()


def explain(
    problem: Problem,
    proven: bool,
    in_flight_per_stage: InFlightPerStage,
    remedies: Remedies = OF_JOB,
) -> InfeasibleError:
    """Name the stage and the limit that binds, the least memory and the fewest stages that fit."""
    count = len(problem.stage_devices)
    if len(problem.blocks) < count:
        return InfeasibleError(
            f"{counted(count, 'stage')} asked for, but the model has only "
            f"{counted(len(problem.blocks), 'part')} that a cut may separate; "
            f"ask for {remedies.stages} {max(1, len(problem.blocks))} or fewer"
        )
    unconstrained = replace(problem, pins=(), splits=())
    if unconstrained != problem and chain_cuts(unconstrained) is not None:
        verdict = "no placement obeys" if proven else "no placement was found that obeys"
        return InfeasibleError(
            f"{verdict} the job's placement: section and fits; without it one fits on {count} "
            "stages. Take a line out of it, or ask for more stages"
        )
    fewest = _fewest_stages(problem, in_flight_per_stage)
    return InfeasibleError(_short_of_memory(problem, proven, fewest, remedies))


def _short_of_memory(
    problem: Problem, proven: bool, fewest_stages: int | None, remedies: Remedies
) -> str:
    """The stage that is fullest in the placement closest to fitting, and what would help."""
    stages = _filled(problem, _least_scale(problem))
    assert stages is not None
    may_recompute = problem.recompute != "never"
    used = peak_bytes(replace(problem, recompute="always") if may_recompute else problem, stages)
    capacity = [max(device.capacity, 1) for device in problem.stage_devices]
    fullest = max(range(len(capacity)), key=lambda stage: used[stage] / capacity[stage])
    device = problem.stage_devices[fullest]
    fixed = sum(
        shared.bytes
        for shared in problem.shared
        if any(stages[user] == fullest for user in shared.users)
    )
    activations = used[fullest] - fixed
    largest_part = "saved activations in flight"
    if fixed > activations:
        largest_part = "parameters, gradients and optimizer states"
    certainty = "no placement fits" if proven else "no placement was found that fits"
    tried = ", with recompute or without" if may_recompute else ""
    in_flight = f", {counted(device.in_flight, 'microbatch')} in flight" if remedies.of_job else ""
    helping = _would_fit(problem, max(used), fewest_stages, remedies)
    return (
        f"{certainty}{tried}: memory binds on stage {fullest} ({device.kind}), which needs "
        f"{show_bytes(used[fullest])} of {show_bytes(device.capacity)} (after the reserve) even in "
        f"the placement closest to fitting; {largest_part} are most of it ({show_bytes(fixed)} "
        f"parameters with gradients and optimizer states, {show_bytes(activations)} activations"
        f"{in_flight}). {helping}"
    )


def _would_fit(
    problem: Problem, most_used: int, fewest_stages: int | None, remedies: Remedies
) -> str:
    """The changes that help, and whether more stages do."""
    stages = len(problem.stage_devices)
    memory = f" ({remedies.memory})" if remedies.memory is not None else ""
    changes = [
        f"{show_bytes(most_used)} per device after the reserve{memory} with "
        f"{counted(stages, 'stage')}"
    ]
    if fewest_stages is not None:
        changes.append(
            f"{counted(fewest_stages, 'stage')} of this kind ({remedies.stages} {fewest_stages})"
        )
    changes += ["a smaller microbatch"] if remedies.of_job else []
    if remedies.of_job and problem.recompute == "never":
        changes.append("recompute: auto in the job file")
    more = "" if fewest_stages else f" More stages of this kind do not help, up to {MOST_STAGES}."
    return f"What would fit: {'; or '.join(changes)}.{more}"


def _fewest_stages(problem: Problem, in_flight_per_stage: InFlightPerStage) -> int | None:
    """The fewest stages, more than now, on which everything fits; further ones like the last."""
    devices = problem.stage_devices
    for count in range(len(devices) + 1, min(len(problem.blocks), MOST_STAGES) + 1):
        stage_devices = tuple(
            replace(devices[min(stage, len(devices) - 1)], in_flight=in_flight)
            for stage, in_flight in enumerate(in_flight_per_stage(count))
        )
        if _filled(replace(problem, stage_devices=stage_devices), 1.0) is not None:
            return count
    return None


def _least_scale(problem: Problem) -> float:
    """The least factor of all capacities with which everything fits."""
    low, high = 0.0, 1.0
    while _filled(problem, high) is None:
        low, high = high, high * 2 + 1
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _filled(problem, middle) is None else (low, middle)
    return high


@dataclass
class _Filling:
    """What a stage holds so far: the indices of what it shares, bytes as of `StageBytes`."""

    problem: Problem
    received: float = 0.0
    shared: set[int] = field(default_factory=set)
    fixed: float = 0.0
    saved: float = 0.0
    transient: float = 0.0

    def peak_with(self, block: Block, shared: list[int], device: StageDevice) -> float:
        """Bytes of the stage with one more block."""
        saving = device.saved_microbatches(self.problem.recompute != "never")
        fixed = self.fixed + self._more(shared, saving)
        activations = saving * (self.saved + block.saved_bytes) + device.in_flight * self.received
        return fixed + activations + max(self.transient, block.transient_bytes)

    def add(self, block: Block, shared: list[int], device: StageDevice) -> None:
        """Hold one more block."""
        self.fixed += self._more(
            shared, device.saved_microbatches(self.problem.recompute != "never")
        )
        self.shared.update(shared)
        self.saved += block.saved_bytes
        self.transient = max(self.transient, block.transient_bytes)

    def _more(self, shared: list[int], saving: int) -> int:
        new = (index for index in shared if index not in self.shared)
        return sum(self.problem.shared[index].bytes_with(saving) for index in new)


def _filled(problem: Problem, scale: float) -> Stages | None:
    """Blocks in order, each stage filled up to `scale` times its capacity; None for too few stages.

    A stage that takes more leaves less to the later ones, which hold fewer microbatches, so this
    fits if any chain does but for the bytes that happen to cross its cuts.
    """
    shared_by_block, received = problem.shared_by_block(), received_bytes(problem)
    stages: Stages = []
    stage, filling = 0, _Filling(problem)
    for index, block in enumerate(problem.blocks):
        while True:
            device = problem.stage_devices[stage]
            peak = filling.peak_with(block, shared_by_block[index], device)
            if peak <= max(device.capacity, 1) * scale:
                break
            if stage + 1 == len(problem.stage_devices):
                return None
            stage, filling = stage + 1, _Filling(problem, float(received[index]))
        filling.add(block, shared_by_block[index], device)
        stages.append(stage)
    return stages
