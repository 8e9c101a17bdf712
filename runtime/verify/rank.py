"""One rank of `pipecut verify`, which writes its tensors of each step."""

# ruff: noqa: E402
from pipecut.rare_collections import collect_rarely, collect_usually
from pipecut.runtime.health.interrupt import end_at_interrupt

if __name__ == "__main__":
    # Before imports that take seconds; whoever started this rank says that it was stopped.
    end_at_interrupt()
    collect_rarely()

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from pipecut.device.types import type_of
from pipecut.errors import PipecutError
from pipecut.model.optimizer import make_optimizer
from pipecut.model.plan_optimizer import PlanOptimizer
from pipecut.runtime.health.rank_errors import end_with_parent, print_error
from pipecut.runtime.pipeline import Pipeline, load_pipeline
from pipecut.runtime.ranks.world import leave_world
from pipecut.runtime.verify.batches import batch_of_step
from pipecut.runtime.verify.evaluation import evaluated_by_plan
from pipecut.runtime.verify.setting import EPS
from pipecut.runtime.verify.tensors import Tensors, kept


def run_rank(
    path: Path, folder: Path, steps: int, device: str, evaluation: bool, code: Path | None
) -> None:
    """Train, and write `RANK-STEP.safetensors` with this rank's tensors of each step."""
    if type_of(device).of_host:
        torch.set_num_threads(1)
    pipe = load_pipeline(path, device, code=code)
    torch.set_num_threads(1)
    stepped = make_optimizer(pipe.plan.optimizer, pipe.trained_parameters(), least_eps=EPS)
    optimizer = PlanOptimizer(stepped, pipe.clip_grad_norm_, pipe.plan.clip)
    for step in range(steps):
        tensors = _train_step(pipe, optimizer, step)
        tensors |= evaluated_by_plan(pipe, step) if evaluation else {}
        save_file(tensors, str(folder / file_of(pipe.world.rank, step)))
    leave_world(pipe.world)


def _train_step(pipe: Pipeline, optimizer: PlanOptimizer, step: int) -> Tensors:
    loss = pipe.step(**batch_of_step(pipe.plan, step))
    tensors = {"loss/loss": kept(loss.float())}
    for name, parameter in pipe.named_parameters():
        if parameter.grad is not None:
            tensors[f"gradient/{name}"] = kept(parameter.grad)
    optimizer.step()
    for name, parameter in pipe.named_parameters():
        tensors[f"parameter/{name}"] = kept(parameter)
    for name, buffer in pipe.named_buffers():
        # torch.export's name for a constant of the model's code, which is no buffer of the model.
        if "lifted_tensor" not in name:
            tensors[f"buffer/{name}"] = kept(buffer)
    return tensors


def file_of(rank: int, step: int) -> str:
    """Where a rank writes its tensors of a step."""
    return f"{rank}-{step}.safetensors"


def main() -> None:
    """Run a rank: PLAN FOLDER STEPS DEVICE EVALUATION [CODE]."""
    path, folder, steps, device, evaluation, *code = sys.argv[1:]
    end_with_parent()
    collect_usually()
    try:
        where = Path(code[0]) if code else None
        run_rank(Path(path), Path(folder), int(steps), device, evaluation == "1", where)
    except PipecutError as error:
        print_error(error)
        os._exit(error.exit_code)


if __name__ == "__main__":
    main()
