"""A known placement as values of the program's variables, for a solver to start from."""

from pipecut.compiler.partition.load import bottleneck
from pipecut.compiler.partition.memory import recomputing
from pipecut.compiler.partition.problem import Problem, Stages
from pipecut.compiler.partition.program.memory_rows import MIB
from pipecut.compiler.partition.program.variables import Program, Transfer


def start_values(problem: Problem, program: Program, stages: Stages) -> dict[str, float]:
    """Every variable's value, by its name."""
    # `fullest` is at most 1, though rounding may take a placement that fits a little above that.
    values = {program.bottleneck.name: bottleneck(problem, stages) / program.scale, "fullest": 1.0}
    for (block, stage), variable in program.up_to.items():
        if not isinstance(variable, int):
            values[variable.name] = float(stages[block] <= stage)
    for transfer in program.transfers:
        values[transfer.variable.name] = float(_moves(problem, transfer, stages))
    for (index, stage), variable in program.hosted.items():
        users = problem.shared[index].users
        values[variable.name] = float(stage in {stages[user] for user in users})
    for device, variable in program.transient.items():
        values[variable.name] = _transient(problem, stages, device) / MIB
    recompute = dict(zip(problem.device_of, recomputing(problem, stages), strict=True))
    for device, choice in program.recompute.items():
        values[choice.chosen.name] = float(recompute[device])
        recomputed = _forward_seconds(problem, stages, device) if recompute[device] else 0.0
        values[choice.seconds.name] = recomputed / program.scale
    return values


def _moves(problem: Problem, transfer: Transfer, stages: Stages) -> bool:
    """Whether a tensor crosses a boundary, leaves a device or arrives there."""
    tensor, place = problem.tensors[transfer.tensor], transfer.place
    source = stages[tensor.source]
    consumers = [stages[consumer] for consumer in tensor.consumers]
    if transfer.move == "cross":
        return min(source, *consumers) <= place < max(source, *consumers)
    maker = problem.device_of[source]
    using = {problem.device_of[stage] for stage in consumers}
    if transfer.move == "leave":
        return maker == place and bool(using - {place})
    return maker != place and place in using


def _transient(problem: Problem, stages: Stages, device: int) -> int:
    """The largest transient on a device."""
    rows = zip(problem.blocks, stages, strict=True)
    on_device = (b.transient_bytes for b, stage in rows if problem.device_of[stage] == device)
    return max(on_device, default=0)


def _forward_seconds(problem: Problem, stages: Stages, device: int) -> float:
    """Forward seconds of all that a device's stages run."""
    kinds, device_of = [row.kind for row in problem.stage_devices], problem.device_of
    seconds = [
        block.forward_seconds.get(kinds[stage], 0.0)
        for block, stage in zip(problem.blocks, stages, strict=True)
        if device_of[stage] == device
    ]
    seconds += [
        shared.forward_seconds.get(kinds[stage], 0.0)
        for shared in problem.shared
        for stage in {stages[user] for user in shared.users}
        if device_of[stage] == device
    ]
    return sum(seconds)
