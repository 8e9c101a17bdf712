"""Why nothing fits, and the least that would."""

from collections.abc import Callable
from dataclasses import replace

from pipecut.compiler.partition.problem import Problem, memory
from pipecut.compiler.partition.warmstart import chain_cuts
from pipecut.compiler.units import show_bytes
from pipecut.errors import InfeasibleError

# Microbatches in flight on each stage, for a number of stages.
Flights = Callable[[int], tuple[int, ...]]


def explain(problem: Problem, proven: bool, flights: Flights) -> InfeasibleError:
    """Name the stage and the limit that binds, the least memory and the fewest stages that would do."""
    count = len(problem.slots)
    if len(problem.blocks) < count:
        return InfeasibleError(
            f"{count} stages asked for, but the model has only {len(problem.blocks)} parts that a cut may separate; "
            f"ask for --stages {max(1, len(problem.blocks))} or fewer"
        )
    scale = _least_scale(problem)
    grown = chain_cuts(problem, [slot.capacity * scale for slot in problem.slots])
    assert grown is not None
    used = memory(problem, grown)
    stage = max(range(count), key=lambda s: used[s] / max(problem.slots[s].capacity, 1))
    slot = problem.slots[stage]
    fixed = sum(p.bytes for p in problem.shared if any(grown[u] == stage for u in p.users))
    activations = used[stage] - fixed
    binds = "parameters, gradients and optimizer states" if fixed > activations else "saved activations in flight"
    fewest = _fewest_stages(problem, flights)
    more = f"{fewest} stages of this kind" if fewest else "no number of stages up to 256 of this kind"
    certainty = "no placement fits" if proven else "no placement was found that fits"
    return InfeasibleError(
        f"{certainty}: memory binds on stage {stage} ({slot.kind}), which needs {show_bytes(used[stage])} of "
        f"{show_bytes(slot.capacity)} (after the reserve) even in the placement closest to fitting; {binds} are most of it "
        f"({show_bytes(fixed)} parameters with gradients and optimizer states, {show_bytes(activations)} activations, "
        f"{slot.in_flight} microbatches in flight). What would do: {show_bytes(max(used))} a device after the reserve with "
        f"{count} stages; or {more}; or a smaller microbatch."
    )


def _least_scale(problem: Problem) -> float:
    low, high = 0.0, 1.0
    while chain_cuts(problem, [slot.capacity * high + 1 for slot in problem.slots]) is None:
        low, high = high, high * 2 + 1
    for _ in range(20):
        middle = (low + high) / 2
        if chain_cuts(problem, [slot.capacity * middle for slot in problem.slots]) is None:
            low = middle
        else:
            high = middle
    return high + 1e-9


def _fewest_stages(problem: Problem, flights: Flights) -> int | None:
    for count in range(len(problem.slots) + 1, min(len(problem.blocks), 256) + 1):
        slots = tuple(replace(problem.slots[min(s, len(problem.slots) - 1)], in_flight=n) for s, n in enumerate(flights(count)))
        if chain_cuts(replace(problem, slots=slots)) is not None:
            return count
    return None
