"""A checkpoint as one safetensors file with the unsplit model's own names."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from pipecut.errors import CheckpointError
from pipecut.plan.schema import Plan
from pipecut.runtime.checkpoint import files as checkpoint
from pipecut.runtime.checkpoint import folder as checkpoint_folder
from pipecut.runtime.checkpoint.resume import refuse_other_model
from pipecut.writable import writable_file


def export(plan: Plan, where: Path, output: Path) -> tuple[int, int]:
    """Write parameters and persistent buffers under every FQN they have. Returns how many, and the checkpoint's step.

    Raises CheckpointError.
    """
    writable_file(output, "-o")
    path = checkpoint_folder.latest(where)
    if path is None:
        raise CheckpointError(f"{where} is no checkpoint and has none")
    facts = checkpoint.read_facts(path)
    refuse_other_model(str(path), plan, facts)
    if not facts.finite and path != where:
        raise CheckpointError(
            f"{path} has values that are no finite numbers: its training had diverged; name the checkpoint that is meant"
        )
    wanted: dict[str, list[str]] = {}
    for stage in plan.stages:
        wanted |= {f"parameter/{held.names[0]}": held.names for held in stage.parameters}
        wanted |= {
            f"buffer/{held.names[0]}": held.names for held in stage.buffers if held.persistent
        }
    found = checkpoint.read_tensors(path, facts, wanted)
    # A file cannot have one tensor under two names.
    tensors: dict[str, torch.Tensor] = {
        name: found[key].clone() for key, names in wanted.items() for name in names
    }
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, str(output))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{output} cannot be written: {error}") from None
    return len(tensors), facts.step
