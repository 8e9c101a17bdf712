"""A checkpoint as one safetensors file with the unsplit model's own names."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from pipecut.errors import CheckpointError
from pipecut.runtime import checkpoint
from pipecut.runtime.plan import Plan


def export(plan: Plan, where: Path, output: Path) -> tuple[int, int]:
    """Write parameters and persistent buffers under every FQN they have. Returns how many, and the checkpoint's step.

    Raises CheckpointError.
    """
    path = checkpoint.latest(where)
    if path is None:
        raise CheckpointError(f"{where} is no checkpoint and has none")
    facts = checkpoint.read_facts(path)
    wanted: dict[str, list[str]] = {}
    for stage in plan.stages:
        wanted |= {f"parameter/{held.names[0]}": held.names for held in stage.parameters}
        wanted |= {f"buffer/{held.names[0]}": held.names for held in stage.buffers if held.persistent}
    found = checkpoint.read_tensors(path, facts, wanted)
    # A file cannot have one tensor under two names.
    tensors: dict[str, torch.Tensor] = {name: found[key].clone() for key, names in wanted.items() for name in names}
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, str(output))
    except OSError as error:
        raise CheckpointError(f"{output} cannot be written: {error.strerror}") from None
    return len(tensors), facts.step
