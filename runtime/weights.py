"""First values of a rank's parameters: from safetensors by FQN, or as the unsplit model would have them."""

import json
from pathlib import Path

import torch
from safetensors import safe_open

from pipecut.errors import RunError
from pipecut.runtime.init import initial_parameters
from pipecut.runtime.plan import Plan, Stage
from pipecut.runtime.userfunction import find_function


def fill(plan: Plan, stages: list[Stage], tensors: dict[str, torch.Tensor]) -> str | None:
    """Fill parameters, and the buffers that the weights have, by every FQN they have.

    Returns a note when more than this rank's parameters had to be held meanwhile. Raises RunError.
    """
    wanted = {name for stage in stages for held in stage.parameters for name in held.names}
    if plan.model.weights:
        values = read_weights(Path(plan.model.weights), stages)
        extra = 0
    else:
        reference = plan.model
        factory = find_function(reference.factory, map(Path, reference.folders), "plan.yaml")
        values, extra = initial_parameters(lambda: factory(**reference.args), reference.seed, wanted)
    with torch.no_grad():
        for name, value in values.items():
            if value.shape != tensors[name].shape:
                raise RunError(f"{name}: the plan has shape {list(tensors[name].shape)}, the weights {list(value.shape)}")
            tensors[name].copy_(value)
    return f"{extra} parameters of other ranks were held meanwhile: this rank's are computed from them" if extra else None


def read_weights(path: Path, stages: list[Stage]) -> dict[str, torch.Tensor]:
    """Tensors by FQN from a safetensors file, a folder of them, or an index.

    Buffers that the file lacks keep the values the plan has. Raises RunError for a parameter that is missing.
    """
    where = weight_files(path)
    result: dict[str, torch.Tensor] = {}
    for stage in stages:
        for held in (*stage.parameters, *stage.buffers):
            name = next((n for n in held.names if n in where), None)
            if name is None and held in stage.buffers:
                continue
            if name is None:
                raise RunError(f"{path} has no weights for {held.names[0]} of stage {stage.index}")
            with safe_open(str(where[name]), framework="pt") as archive:
                tensor = archive.get_tensor(name)
            result.update(dict.fromkeys(held.names, tensor))
    return result


def weight_files(path: Path) -> dict[str, Path]:
    """FQN to the file that has it. Raises RunError when there is no such file."""
    where: dict[str, Path] = {}
    for file in _files(path):
        with safe_open(str(file), framework="pt") as archive:
            where.update(dict.fromkeys(archive.keys(), file))
    return where


def _files(path: Path) -> list[Path]:
    if path.name.endswith(".index.json"):
        names = set(json.loads(path.read_text())["weight_map"].values())
        return [path.parent / name for name in sorted(names)]
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise RunError(f"no safetensors file at {path}; mend weights: in the job file and compile again")
    return files
