"""A checkpoint as one safetensors file with the unsplit model's own names."""

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

from pipecut.errors import CheckpointError
from pipecut.plan.schema import Plan
from pipecut.runtime.checkpoint.folder import latest
from pipecut.runtime.checkpoint.manifest import read_manifest
from pipecut.runtime.checkpoint.reading import read_tensors
from pipecut.runtime.checkpoint.resume import refuse_other_model
from pipecut.writable import writable_file


@dataclass(frozen=True)
class Exported:
    """How many tensors a file has, and after which step of the training.

    `left_out` counts frozen parameters that the checkpoint does not have.
    """

    tensors: int
    step: int
    left_out: int = 0


def export(plan: Plan, folder: Path, output: Path) -> Exported:
    """Write parameters and persistent buffers under every FQN they have. Raises CheckpointError.

    `folder` is a checkpoint, or a folder of checkpoints, of which the last is taken.
    """
    writable_file(output, "-o")
    path = latest(folder)
    if path is None:
        raise CheckpointError(f"{folder} is no checkpoint and has none")
    manifest = read_manifest(path)
    refuse_other_model(str(path), plan, manifest)
    if not manifest.finite and path != folder:
        raise CheckpointError(
            f"{path} has values that are no finite numbers: its training had diverged; "
            "name the checkpoint that is meant"
        )
    names: dict[str, list[str]] = {}
    for stage in plan.stages:
        names |= {f"parameter/{p.names[0]}": p.names for p in stage.parameters}
        names |= {f"buffer/{b.names[0]}": b.names for b in stage.buffers if b.persistent}
    left_out = [f"parameter/{name}" for name in manifest.frozen]
    names = {key: fqns for key, fqns in names.items() if key not in left_out}
    values = read_tensors(path, manifest, names)
    # Cloned, since a file cannot have one tensor under two names.
    tensors = {name: values[key].clone() for key, fqns in names.items() for name in fqns}
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, str(output))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{output} cannot be written: {error}") from None
    return Exported(len(tensors), manifest.step, len(left_out))
