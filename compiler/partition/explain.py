"""Why nothing fits, and the least that would."""

from collections.abc import Callable
from dataclasses import replace

from pipecut.compiler.inputs.units import show_bytes
from pipecut.compiler.partition.chain.chain import chain_cuts
from pipecut.compiler.partition.chain.windows import received_bytes
from pipecut.compiler.partition.memory import peak_bytes
from pipecut.compiler.partition.problem import Problem
from pipecut.errors import InfeasibleError

# Microbatches in flight on each stage, for a number of stages.
Flights = Callable[[int], tuple[int, ...]]


def explain(problem: Problem, proven: bool, in_flight_per_stage: Flights) -> InfeasibleError:
    """Name the stage and the limit that binds, the least memory and the fewest stages that would do."""
    count = len(problem.stage_devices)
    if len(problem.blocks) < count:
        return InfeasibleError(
            f"{count} stages asked for, but the model has only {len(problem.blocks)} parts that a cut may separate; "
            f"ask for --stages {max(1, len(problem.blocks))} or fewer"
        )
    free = replace(problem, pins=(), splits=())
    if free != problem and chain_cuts(free) is not None:
        return InfeasibleError(
            f"{'no placement obeys' if proven else 'no placement was found that obeys'} the job's placement: section and fits; "
            f"without it one fits on {count} stages. Take a line out of it, or ask for more stages"
        )
    scale = _least_scale(problem)
    grown = _filled(problem, scale)
    assert grown is not None
    # The bytes it needs at the least.
    used = peak_bytes(
        replace(problem, recompute="always") if problem.recompute == "auto" else problem, grown
    )
    stage = max(range(count), key=lambda s: used[s] / max(problem.stage_devices[s].capacity, 1))
    slot = problem.stage_devices[stage]
    fixed = sum(p.bytes for p in problem.shared if any(grown[u] == stage for u in p.users))
    activations = used[stage] - fixed
    binds = (
        "parameters, gradients and optimizer states"
        if fixed > activations
        else "saved activations in flight"
    )
    fewest = _fewest_stages(problem, in_flight_per_stage)
    more = (
        f"{fewest} stages of this kind" if fewest else "no number of stages up to 256 of this kind"
    )
    again = "" if problem.recompute != "never" else ", or recompute: auto in the job file"
    certainty = "no placement fits" if proven else "no placement was found that fits"
    return InfeasibleError(
        f"{certainty}{'' if again else ', with recompute or without'}: memory binds on stage {stage} ({slot.kind}), "
        f"which needs {show_bytes(used[stage])} of "
        f"{show_bytes(slot.capacity)} (after the reserve) even in the placement closest to fitting; {binds} are most of it "
        f"({show_bytes(fixed)} parameters with gradients and optimizer states, {show_bytes(activations)} activations, "
        f"{slot.in_flight} microbatches in flight). What would do: {show_bytes(max(used))} a device after the reserve with "
        f"{count} stages; or {more}; or a smaller microbatch{again}."
    )


def _least_scale(problem: Problem) -> float:
    low, high = 0.0, 1.0
    while _filled(problem, high) is None:
        low, high = high, high * 2 + 1
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if _filled(problem, middle) is None else (low, middle)
    return high


def _fewest_stages(problem: Problem, in_flight_per_stage: Flights) -> int | None:
    for count in range(len(problem.stage_devices) + 1, min(len(problem.blocks), 256) + 1):
        stage_devices = tuple(
            replace(problem.stage_devices[min(s, len(problem.stage_devices) - 1)], in_flight=n)
            for s, n in enumerate(in_flight_per_stage(count))
        )
        if _filled(replace(problem, stage_devices=stage_devices), 1.0) is not None:
            return count
    return None


def _filled(problem: Problem, scale: float) -> list[int] | None:
    """Blocks in order, each stage filled up to `scale` times its capacity; None when some are left over.

    A stage that takes more leaves less to the later ones, which hold fewer microbatches, so this fits if any chain does but
    for the bytes that happen to cross its cuts.
    """
    users, across = problem.shared_by_block(), received_bytes(problem)
    stages: list[int] = []
    stage, held, fixed, saved, received, transient = 0, set[int](), 0.0, 0.0, 0.0, 0.0
    for v, block in enumerate(problem.blocks):
        while True:
            slot = problem.stage_devices[stage]
            saving = slot.saved_microbatches(problem.recompute != "never")
            more = sum(problem.shared[p].bytes_with(saving) for p in users[v] if p not in held)
            peak = max(transient, block.transient_bytes)
            flying = saving * (saved + block.saved_bytes) + slot.in_flight * received
            if fixed + more + flying + peak <= max(slot.capacity, 1) * scale:
                break
            if stage + 1 == len(problem.stage_devices):
                return None
            stage, held, fixed, saved, received, transient = (
                stage + 1,
                set(),
                0.0,
                0.0,
                float(across[v]),
                0.0,
            )
        held.update(users[v])
        fixed, saved, transient = fixed + more, saved + block.saved_bytes, peak
        stages.append(stage)
    return stages
