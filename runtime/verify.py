"""Compare a pipelined run with the unsplit model: loss, gradients, parameters after each step, buffers.

Run as a module it is one rank; `verify` starts the ranks, runs the unsplit model and compares.
"""

# ruff: noqa: E402
from pipecut.runtime.health.interrupt import end_at_interrupt

if __name__ == "__main__":
    # Before imports that take seconds; whoever started this rank says that it was stopped.
    end_at_interrupt()

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pipecut.device.local import has_devices
from pipecut.device.types import CPU, common_type, type_of
from pipecut.errors import PipecutError
from pipecut.model.draws import Draws
from pipecut.model.functions import find_function
from pipecut.model.optimizer import make_optimizer
from pipecut.model.precision import as_summed, cast_model
from pipecut.model.sample_batch import sample_batch
from pipecut.model.unsplit import WithLoss
from pipecut.model.weights import read_weights
from pipecut.plan.folder import read_plan
from pipecut.plan.rows import divided, rows_of
from pipecut.plan.schema import Plan
from pipecut.runtime.batches.microbatches import microbatches, samples_in
from pipecut.runtime.gradients.loss_scale import LossScale
from pipecut.runtime.gradients.masters import Masters
from pipecut.runtime.gradients.parameters import parameters_of
from pipecut.runtime.health.rank_errors import end_with_parent, tell
from pipecut.runtime.launch.launch import launch
from pipecut.runtime.pipeline import load_pipeline
from pipecut.runtime.ranks.world import leave_world
from pipecut.runtime.verify_evaluation import (
    check_can_evaluate,
    evaluated_by_plan,
    evaluated_unsplit,
    wide,
)

# Relative to the tensor's norm. bf16 keeps 8 bits: one rounding of a sum in another order is 2**-8.
TOLERANCE = {"fp32": 1e-5, "bf16": 3e-2, "fp16": 4e-3}
# A tensor whose norm is below this part of the largest of its kind may be rounding noise around zero, as the gradient of a
# bias before a normalisation is; its difference is taken relative to this floor. Together with the tolerance that asks for
# 1e-8 of the largest norm, where float32 has 6e-8.
FLOOR = 1e-3
RATE = 1e-3
# With its default of 1e-8 Adam makes whole steps of the rounding noise in gradients that are zero in exact arithmetic, such as
# those of attention's key biases.
EPS = 1e-4


@dataclass(frozen=True)
class Comparison:
    """The largest relative difference of each kind, and the tensor that has it."""

    worst: dict[str, tuple[float, str]]
    tolerance: float
    compared: int

    @property
    def passed(self) -> bool:
        """Every difference is a number within tolerance."""
        return all(value <= self.tolerance for value, _ in self.worst.values())


def verify(
    path: Path,
    steps: int,
    evaluation: bool = False,
    device: str | None = None,
    devices: Sequence[Mapping[str, str]] | None = None,
) -> Comparison:
    """Run both and compare; in eval mode, too, after each step, with `evaluation`. Raises PlanError or RunError.

    On GPUs where there are as many as ranks, or where `device` says; `devices` are variables that
    tell each rank its own, as for `launch`.
    """
    plan = read_plan(path).plan
    if evaluation:
        check_can_evaluate(plan)
    with tempfile.TemporaryDirectory(prefix="pipecut-verify-") as folder:
        device = device or _device_type(plan)
        arguments = [str(path.resolve()), folder, str(steps), device, str(int(evaluation))]
        launch(plan.ranks, "pipecut.runtime.verify", arguments, devices=devices)
        worst: dict[str, tuple[float, str]] = {}
        compared = 0
        # Tensors that are plain attributes of the model's modules are buffers of the stages alone.
        constants = {
            f"buffer/{n}"
            for s in plan.stages
            for h in s.buffers
            if not h.persistent
            for n in h.names
        }
        for step, expected in enumerate(_unsplit(plan, steps, device, evaluation)):
            seen: set[str] = set()
            for rank in range(plan.ranks):
                loaded = load_file(str(Path(folder) / f"{rank}-{step}.safetensors"))
                found = {
                    key: tensor
                    for key, tensor in loaded.items()
                    if key in expected or key not in constants
                }
                seen |= set(found)
                compared += len(found)
                stride = RATE if plan.optimizer in ("adam", "adamw") else 0.0
                _compare(
                    found,
                    _rows(plan, plan.layout.place(rank).replica, found, expected),
                    worst,
                    stride,
                )
            for key in set(expected) - seen:
                if expected[key].numel():
                    worst[key.split("/")[0]] = (
                        float("inf"),
                        f"{key.split('/', 1)[1]} is on no rank",
                    )
        return Comparison(worst, TOLERANCE[plan.model.precision], compared)


def _rows(
    plan: Plan, replica: int, found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """What is expected, of divided parameters the rows that the replica has."""

    def part(key: str, want: torch.Tensor) -> torch.Tensor:
        of_optimizer = key.split("/")[0] in ("gradient", "parameter")
        if key in found and of_optimizer and divided(want.shape, plan.shards):
            return want[slice(*rows_of(want.shape, plan.shards, replica))]
        return want

    return {key: part(key, want) for key, want in expected.items()}


def _device_type(plan: Plan) -> str:
    """The plan's own where this machine has a device for each rank, else the CPU."""
    planned = common_type(stage.device_type for stage in plan.stages)
    return planned.name if planned is not None and has_devices(planned, plan.ranks) else CPU.name


def _compare(
    found: dict[str, torch.Tensor],
    expected: dict[str, torch.Tensor],
    worst: dict[str, tuple[float, str]],
    stride: float,
) -> None:
    """`stride` is how far one optimizer step may move an element whatever its gradient, 0 where that has no limit."""
    largest: dict[str, float] = {}
    for key, tensor in expected.items():
        kind = key.split("/")[0]
        largest[kind] = max(largest.get(kind, 0.0), float(wide(tensor).norm()))
    for key, tensor in found.items():
        kind, name = key.split("/", 1)
        if key not in expected or expected[key].shape != tensor.shape:
            worst[kind] = (float("inf"), f"{name} is not in the unsplit model")
            continue
        want = wide(expected[key])
        # A parameter that starts at zero and moves by rounding noise is measured by the step it could have made.
        floor = stride * want.numel() ** 0.5 if kind == "parameter" else 0.0
        scale = max(float(want.norm()), FLOOR * largest[kind], floor)
        apart = float((wide(tensor) - want).norm())
        value = apart / scale if scale else apart
        value = value if value == value else float("inf")
        if value > worst.get(kind, (-1.0, ""))[0]:
            worst[kind] = value, name


def _unsplit(
    plan: Plan, steps: int, device: str, evaluation: bool
) -> Iterator[dict[str, torch.Tensor]]:
    """The unsplit model with gradient accumulation over the same microbatches."""
    reference = plan.model
    folders = [Path(folder) for folder in reference.folders]
    torch.manual_seed(reference.seed)
    torch.set_num_threads(1)
    model: nn.Module = find_function(reference.factory, folders, "plan.yaml")(**reference.args)
    if reference.weights:
        # Strict about what is unknown; a tied name may be absent from the file.
        model.load_state_dict(read_weights(Path(reference.weights), plan), strict=False)
    loss_of = find_function(reference.loss, folders, "plan.yaml") if reference.loss else None
    first = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    whole = WithLoss(cast_model(model, reference.precision), loss_of).train().to(device)
    parameters = parameters_of(model)
    masters, scale = Masters(parameters), LossScale(reference.precision)
    trained = {parameter.name: parameter.master for parameter in parameters}
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(first[name])
    optimizer = make_optimizer(plan.optimizer, trained.values(), RATE, EPS)
    draws = Draws(reference.seed)
    for step in range(steps):
        masters.refresh()
        batch = sample_batch(reference, plan.batch.global_size, step)
        parts = microbatches(plan, batch)
        total = torch.zeros(())
        weights = plan.batch.weights(batch, [samples_in(plan, part) for part in parts])
        for number, (part, weight) in enumerate(zip(parts, weights, strict=True)):
            part = {n: v.to(device) if isinstance(v, torch.Tensor) else v for n, v in part.items()}
            # Around the backward too, in which torch.utils.checkpoint draws again.
            with draws.at(step + 1, number):
                loss = whole(part)
                (loss * (weight * scale.scale)).backward()
            total += (as_summed(loss.detach()) * weight).cpu()
        if scale.used:
            scale.apply(trained.values(), bool(scale.overflows(trained.values())))
        result = {"loss/loss": total}
        for name, parameter in trained.items():
            if parameter.grad is not None:
                result[f"gradient/{name}"] = parameter.grad.detach().cpu().clone()
        optimizer.step()
        optimizer.zero_grad()
        for name, parameter in trained.items():
            result[f"parameter/{name}"] = parameter.detach().cpu().clone()
        for name, buffer in model.named_buffers():
            result[f"buffer/{name}"] = buffer.detach().cpu().clone()
        if evaluation:
            masters.refresh()
            result |= evaluated_unsplit(plan, whole, draws, step, device)
        yield result


def _rank(path: Path, folder: Path, steps: int, device: str, evaluation: bool) -> None:
    if type_of(device).of_host:
        torch.set_num_threads(1)
    pipe = load_pipeline(path, device)
    torch.set_num_threads(1)
    optimizer = make_optimizer(pipe.plan.optimizer, pipe.parameters(), RATE, EPS)
    for step in range(steps):
        loss = pipe.step(**sample_batch(pipe.plan.model, pipe.plan.batch.global_size, step))
        tensors = {"loss/loss": loss.float()}
        tensors |= {
            f"gradient/{n}": p.grad for n, p in pipe.named_parameters() if p.grad is not None
        }
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        optimizer.step()
        optimizer.zero_grad()
        for name, parameter in pipe.named_parameters():
            tensors[f"parameter/{name}"] = parameter.detach().cpu().contiguous().clone()
        for name, buffer in pipe.named_buffers():
            if "lifted_tensor" not in name:
                tensors[f"buffer/{name}"] = buffer.detach().cpu().contiguous().clone()
        tensors |= evaluated_by_plan(pipe, step) if evaluation else {}
        save_file(tensors, str(folder / f"{pipe.world.rank}-{step}.safetensors"))
    leave_world(pipe.world)


def main() -> None:
    """One rank: PLAN FOLDER STEPS DEVICE EVALUATION."""
    path, folder, steps, device, evaluation = sys.argv[1:]
    end_with_parent()
    try:
        _rank(Path(path), Path(folder), int(steps), device, evaluation == "1")
    except PipecutError as error:
        tell(error)
        os._exit(error.exit_code)


if __name__ == "__main__":
    main()
