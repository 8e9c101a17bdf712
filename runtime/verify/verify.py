"""Compare a pipelined run with the unsplit model: loss, gradients, parameters and buffers."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from safetensors.torch import load_file

from pipecut.device.local import has_devices
from pipecut.device.types import CPU, common_type
from pipecut.model.comparison import MOST_ROUNDING, TOLERANCE, Comparing, Comparison, Named
from pipecut.model.optimizer import learning_rate
from pipecut.plan.folder import plan_in
from pipecut.plan.rows import divided, rows_of
from pipecut.plan.schema import Plan
from pipecut.runtime.launch.launch import launch
from pipecut.runtime.verify.evaluation import check_can_evaluate
from pipecut.runtime.verify.rank import file_of
from pipecut.runtime.verify.unsplit import train_unsplit


def verify(
    path: Path,
    steps: int,
    evaluation: bool = False,
    device: str | None = None,
    devices: Sequence[Mapping[str, str]] | None = None,
    code: Path | None = None,
) -> Comparison:
    """Run both and compare; in eval mode, too, after each step, with `evaluation`.

    On the plan's devices where this machine has one for each rank, or where `device` says;
    `devices` are variables that tell each rank its own, as for `launch`; `code` is where the
    model's code is now. Raises PlanError or RunError.
    """
    plan = plan_in(path, code)
    if evaluation:
        check_can_evaluate(plan)
    with tempfile.TemporaryDirectory(prefix="pipecut-verify-") as folder:
        device = device or _device_type(plan)
        arguments = [str(path.resolve()), folder, str(steps), device, str(int(evaluation))]
        arguments += [] if code is None else [str(code.resolve())]
        launch(plan.ranks, "pipecut.runtime.verify.rank", arguments, devices=devices)
        return compare_run(plan, Path(folder), steps, device, evaluation)


def compare_run(
    plan: Plan, folder: Path, steps: int, device: str, evaluation: bool = False
) -> Comparison:
    """Train the unsplit model, and compare it with what the ranks wrote into a folder."""
    tolerance = TOLERANCE[plan.model.precision]
    result = _compared(plan, folder, train_unsplit(plan, steps, device, evaluation))
    worst = max(difference.value for difference in result.worst.values())
    if not tolerance < worst <= MOST_ROUNDING:
        return result
    # How far rounding alone goes costs another training, so it is asked where it may matter.
    again = train_unsplit(plan, steps, device, evaluation)
    nudged = train_unsplit(plan, steps, device, evaluation, nudged=True)
    return _compared(plan, folder, again, nudged)


def _compared(
    plan: Plan, folder: Path, trained: Iterator[Named], nudged: Iterator[Named] | None = None
) -> Comparison:
    """What ranks wrote, beside the unsplit model's steps, and those after its last bits changed."""
    # Adam moves each element by about the learning rate, however small its gradient.
    normalises = plan.optimizer.kind.normalises
    tolerance = TOLERANCE[plan.model.precision]
    comparing = Comparing(learning_rate(plan.optimizer) if normalises else 0.0, tolerance)
    for step, expected in enumerate(trained):
        ranks = [load_file(folder / file_of(r, step)) for r in range(plan.ranks)]
        compare_step(plan, comparing, ranks, expected, next(nudged) if nudged else None)
    return comparing.result(tolerance)


def compare_step(
    plan: Plan,
    comparing: Comparing,
    ranks: Sequence[Named],
    expected: Named,
    nudged: Named | None = None,
) -> None:
    """Compare each rank's tensors of a step with those of the unsplit model."""
    constants = _constants(plan)
    on_ranks: set[str] = set()
    for rank, tensors in enumerate(ranks):
        compared = {
            key: tensor
            for key, tensor in tensors.items()
            if key in expected or key not in constants
        }
        on_ranks |= set(compared)
        replica = plan.layout.place(rank).replica
        rows = _rows_of_replica(plan, replica, tensors, expected)
        rows_nudged = nudged and _rows_of_replica(plan, replica, tensors, nudged)
        comparing.add(compared, rows, rows_nudged)
    for key in set(expected) - on_ranks:
        if expected[key].numel():
            comparing.miss(key)


def _constants(plan: Plan) -> set[str]:
    """Plain attributes of the model's modules, which are buffers of the stages only."""
    buffers = [buffer for stage in plan.stages for buffer in stage.buffers]
    return {f"buffer/{n}" for buffer in buffers if not buffer.persistent for n in buffer.names}


def _rows_of_replica(plan: Plan, replica: int, tensors: Named, expected: Named) -> Named:
    """What is expected; of divided parameters and gradients the rows that the replica has."""
    of_replica = dict(expected)
    for key in tensors.keys() & expected.keys():
        shape = expected[key].shape
        is_stepped = key.split("/")[0] in ("gradient", "parameter")
        if is_stepped and divided(shape, plan.shards):
            of_replica[key] = expected[key][slice(*rows_of(shape, plan.shards, replica))]
    return of_replica


def _device_type(plan: Plan) -> str:
    """The plan's own where this machine has a device for each rank, else the CPU."""
    planned = common_type(stage.device_type for stage in plan.stages)
    return planned.name if planned is not None and has_devices(planned, plan.ranks) else CPU.name
