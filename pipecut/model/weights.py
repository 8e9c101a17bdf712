"""Values of parameters and buffers from safetensors, by FQN, one tensor at a time."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import _TYPES

from pipecut.errors import RunError
from pipecut.plan.schema import Plan, Stage, StageTensor

# Of a file's contents so many pieces of so many bytes are compared between ranks.
PIECES, PIECE_BYTES = 64, 4096


def stored_values(
    path: Path, plan: Plan, stages: Iterable[Stage]
) -> Iterator[tuple[StageTensor, torch.Tensor]]:
    """What the weights have for the parameters and buffers of some stages, as it is wanted, so that one is held at a time.

    Buffers that the files lack keep the values the plan has. Raises RunError for a parameter that is missing, a tensor
    that no stage has, another shape, values that the plan's dtype cannot hold, and values that are no numbers.
    """
    every = plan.stages
    where = check_files(
        path, [h for s in every for h in s.parameters], [h for s in every for h in s.buffers]
    )
    for stage in stages:
        for held in (*stage.parameters, *stage.buffers):
            name = next((n for n in held.names if n in where), None)
            if name is not None:
                tensor = _tensor(where[name], name)
                if (
                    tensor.is_floating_point()
                    and tensor.dtype.itemsize > 1
                    and bool(tensor.isnan().any())
                ):
                    raise RunError(
                        f"{where[name]}: {name} has values that are no numbers (NaN); give weights of a run that did not diverge"
                    )
                yield held, tensor


def check_files(
    path: Path, parameters: Iterable[StageTensor], buffers: Iterable[StageTensor]
) -> dict[str, Path]:
    """FQN to the file that has it, without reading values. Raises RunError where they are not a model's: see `stored_values`."""
    where = weight_files(path)
    parameters, buffers = list(parameters), list(buffers)
    missing = {
        held.names[0] for held in parameters if not any(name in where for name in held.names)
    }
    if missing:
        raise RunError(f"{path} has no '{min(missing)}' ({len(missing)} parameters are missing)")
    extra = sorted(set(where) - {name for held in (*parameters, *buffers) for name in held.names})
    if extra:
        more = f" and {len(extra) - 3} more" if len(extra) > 3 else ""
        raise RunError(
            f"{path} has tensors that the model has not: {', '.join(extra[:3])}{more}; give the weights of this model, "
            "or leave out of the file what does not belong to it"
        )
    of = {name: held for held in (*parameters, *buffers) for name in held.names}
    for file in sorted(set(where.values())):
        with safe_open(str(file), framework="pt") as archive:
            for name in (name for name, own in where.items() if own == file):
                stored = archive.get_slice(name)
                _refuse_unlike(
                    f"{file}: {name}", of[name], stored.get_shape(), _TYPES.get(stored.get_dtype())
                )
    return where


def read_weights(path: Path, plan: Plan) -> dict[str, torch.Tensor]:
    """All of a plan's, by every name. Raises RunError as `stored_values`."""
    values: dict[str, torch.Tensor] = {}
    for held, tensor in stored_values(path, plan, plan.stages):
        values.update(dict.fromkeys(held.names, tensor))
    return values


def _refuse_unlike(
    what: str, held: StageTensor, shape: list[int], dtype: torch.dtype | None
) -> None:
    """Raises RunError where a tensor cannot be the values of a parameter or buffer without loss of sense."""
    if list(shape) != held.shape:
        raise RunError(
            f"{what} is {list(shape)}, the plan has {held.shape}; compile again for these weights"
        )
    wanted = getattr(torch, held.dtype)
    if dtype is None or _kind(dtype) != _kind(wanted):
        raise RunError(
            f"{what} is {_name(dtype)}, the plan has {held.dtype}; quantised values need their scales: "
            f"give the weights as {held.dtype}"
        )
    if wanted.itemsize > 2 and dtype.itemsize > wanted.itemsize:
        raise RunError(
            f"{what} is {_name(dtype)}, the plan has {held.dtype}; give the weights as {held.dtype}"
        )


def _kind(dtype: torch.dtype) -> str:
    if dtype.is_complex:
        return "complex"
    # Floats of 8 bits come with scales of their own.
    if dtype.is_floating_point:
        return "float" if dtype.itemsize > 1 else _name(dtype)
    return "bool" if dtype == torch.bool else "integer"


def _name(dtype: torch.dtype | None) -> str:
    return str(dtype).removeprefix("torch.")


def weight_files(path: Path) -> dict[str, Path]:
    """FQN to a file that has it. Raises RunError when there is no such file, or two have one name for different values."""
    where: dict[str, Path] = {}
    for file in _files(path):
        try:
            with safe_open(str(file), framework="pt") as archive:
                names = list(archive.keys())
        except (SafetensorError, OSError) as error:
            raise RunError(f"{file} cannot be read as safetensors: {error}") from None
        for name in names:
            # Files of ranks each have what is tied.
            if name in where and not torch.equal(_tensor(where[name], name), _tensor(file, name)):
                raise RunError(
                    f"{path} has two values of {name}, in {where[name].name} and {file.name}; keep one of them"
                )
            where[name] = file
    return where


def _tensor(file: Path, name: str) -> torch.Tensor:
    with safe_open(str(file), framework="pt") as archive:
        tensor: torch.Tensor = archive.get_tensor(name)
    return tensor


def weights_digest(path: Path) -> str:
    """Of all names and shapes and a sample of the values: weights of another run have another one, but for single values."""
    total = hashlib.sha256()
    for file in _files(path):
        size = file.stat().st_size
        total.update(f"{file.name} {size}".encode())
        with file.open("rb") as content:
            length = int.from_bytes(content.read(8), "little")
            total.update(content.read(min(length, size)))
            for number in range(PIECES):
                content.seek(number * max(size - PIECE_BYTES, 0) // (PIECES - 1))
                total.update(content.read(PIECE_BYTES))
    return total.hexdigest()


def _files(path: Path) -> list[Path]:
    if path.name.endswith(".index.json"):
        try:
            names = set(json.loads(path.read_text())["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise RunError(
                f"{path} is no index of safetensors files; mend weights: in the job file and compile again"
            ) from None
        return [path.parent / str(name) for name in sorted(names)]
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise RunError(
            f"no safetensors file at {path}; mend weights: in the job file and compile again"
        )
    return files
