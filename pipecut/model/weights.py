"""Values of parameters and buffers from safetensors, by FQN, one tensor at a time."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import _TYPES

from pipecut.errors import RunError
from pipecut.plan.schema import Plan, Stage, StageTensor
from pipecut.quantities import counted

# The end of an index's name. Its `weight_map` has the file of each tensor. Where `stored_names` has
# names, too, these are all its tensors, each by the name that it has in its file. `drawn` lists
# parameters that have no tensor, since the model's factory draws them.
INDEX = ".index.json"
# Ranks compare so many pieces of so many bytes of each file.
PIECES, PIECE_BYTES = 64, 4096
FIX_INDEX = "fix weights: in the job file and compile again"
# Names in a message, at most.
LISTED = 3


@dataclass(frozen=True)
class Stored:
    """A tensor in a file of safetensors, by its name there."""

    file: Path
    name: str

    def __str__(self) -> str:
        """For messages."""
        return f"{self.file}: {self.name}"

    def value(self) -> torch.Tensor:
        """Read it."""
        with safe_open(str(self.file), framework="pt") as archive:
            tensor: torch.Tensor = archive.get_tensor(self.name)
        return tensor


def stored_values(
    path: Path, plan: Plan, stages: Iterable[Stage]
) -> Iterator[tuple[StageTensor, torch.Tensor]]:
    """The weights of some stages' parameters and buffers, read one at a time.

    Buffers that the files lack keep the plan's values. Raises RunError for a missing parameter, a
    tensor that no stage has, another shape, values that the plan's dtype cannot hold, and NaN.
    """
    stored = check_files(
        path,
        [parameter for stage in plan.stages for parameter in stage.parameters],
        [buffer for stage in plan.stages for buffer in stage.buffers],
    )
    for stage in stages:
        for wanted in (*stage.parameters, *stage.buffers):
            name = next((n for n in wanted.names if n in stored), None)
            if name is not None:
                tensor = stored[name].value()
                if _has_nan(tensor):
                    raise RunError(
                        f"{stored[name]} has values that are no numbers (NaN); give "
                        "weights of a run that did not diverge"
                    )
                yield wanted, tensor


def _has_nan(tensor: torch.Tensor) -> bool:
    # torch has no isnan for floats of 8 bits.
    return tensor.is_floating_point() and tensor.dtype.itemsize > 1 and bool(tensor.isnan().any())


def check_files(
    path: Path, parameters: Iterable[StageTensor], buffers: Iterable[StageTensor]
) -> dict[str, Stored]:
    """Where each tensor is, by name, without reading values.

    Raises RunError where the files are not a model's: see `stored_values`.
    """
    stored = weight_files(path)
    parameters = list(parameters)
    wanted = {name: tensor for tensor in (*parameters, *buffers) for name in tensor.names}
    drawn = drawn_names(path)
    unknown = sorted(drawn - set(wanted))
    if unknown:
        raise RunError(f"{path}: drawn names '{unknown[0]}', which is no parameter; {FIX_INDEX}")
    missing = {
        p.names[0] for p in parameters if not any(n in stored or n in drawn for n in p.names)
    }
    if missing:
        raise RunError(
            f"{path} has no '{min(missing)}' ({counted(len(missing), 'parameter')} missing); give "
            "the weights of this model, or leave weights: out to begin with what its factory draws"
        )
    extra = sorted(set(stored) - set(wanted))
    if extra:
        count = f" and {len(extra) - LISTED} more" if len(extra) > LISTED else ""
        raise RunError(
            f"{path} has tensors that the model has not: {', '.join(extra[:LISTED])}{count}; give "
            "the weights of this model, or leave out of the file what does not belong to it"
        )
    for file in sorted({tensor.file for tensor in stored.values()}):
        with safe_open(str(file), framework="pt") as archive:
            for name, tensor in stored.items():
                if tensor.file == file:
                    part = archive.get_slice(tensor.name)
                    dtype = _TYPES.get(part.get_dtype())
                    _refuse_unlike(str(tensor), wanted[name], part.get_shape(), dtype)
    return stored


def read_weights(path: Path, plan: Plan) -> dict[str, torch.Tensor]:
    """All tensors of a plan, by each of their names. Raises RunError as `stored_values` does."""
    values: dict[str, torch.Tensor] = {}
    for wanted, tensor in stored_values(path, plan, plan.stages):
        values.update(dict.fromkeys(wanted.names, tensor))
    return values


def all_values(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of the files, by name. Raises RunError where there is no file."""
    return {name: tensor.value() for name, tensor in weight_files(path).items()}


def _refuse_unlike(
    subject: str, planned: StageTensor, shape: list[int], dtype: torch.dtype | None
) -> None:
    """Raises RunError where a stored tensor cannot be the values of a parameter or buffer."""
    if list(shape) != planned.shape:
        shapes = f"{list(shape)}, the plan has {planned.shape}"
        raise RunError(f"{subject} is {shapes}; compile again for these weights")
    wanted = getattr(torch, planned.dtype)
    dtypes = f"{_name(dtype)}, the plan has {planned.dtype}"
    remedy = f"give the weights as {planned.dtype}"
    if dtype is None or _kind(dtype) != _kind(wanted):
        raise RunError(f"{subject} is {dtypes}; quantised values need their scales: {remedy}")
    # Floats of 16 bits may be rounded from wider ones, as training at that precision rounds them.
    if wanted.itemsize > 2 and dtype.itemsize > wanted.itemsize:
        raise RunError(f"{subject} is {dtypes}; {remedy}")


def _kind(dtype: torch.dtype) -> str:
    if dtype.is_complex:
        return "complex"
    # Floats of 8 bits come with scales of their own.
    if dtype.is_floating_point:
        return "float" if dtype.itemsize > 1 else _name(dtype)
    return "bool" if dtype == torch.bool else "integer"


def _name(dtype: torch.dtype | None) -> str:
    return str(dtype).removeprefix("torch.")


def weight_files(path: Path) -> dict[str, Stored]:
    """Where each tensor is, by name.

    Raises RunError when there is no file, or two files have different values of one name.
    """
    stored = _all_in_files(path)
    if not path.name.endswith(INDEX):
        return stored
    renamed = _read_index(path).get("stored_names", {})
    missing = sorted(name for name in renamed.values() if name not in stored)
    if missing:
        raise RunError(f"{path} names '{missing[0]}', which none of its files has; {FIX_INDEX}")
    return {name: stored[in_file] for name, in_file in renamed.items()} or stored


def drawn_names(path: Path) -> frozenset[str]:
    """The parameters that an index leaves to the model's factory. Raises RunError."""
    if not path.name.endswith(INDEX):
        return frozenset()
    return frozenset(_read_index(path).get("drawn", ()))


def _all_in_files(path: Path) -> dict[str, Stored]:
    """All tensors of the files, by their names there. Raises RunError."""
    stored: dict[str, Stored] = {}
    for file in _files(path):
        try:
            with safe_open(str(file), framework="pt") as archive:
                names = list(archive.keys())
        except (SafetensorError, OSError) as error:
            raise RunError(
                f"{file} cannot be read as safetensors: {error}; give a file of safetensors with "
                "the model's names, or a folder of them"
            ) from None
        for name in names:
            # The files of several ranks each have a tied tensor.
            first, second = stored.get(name), Stored(file, name)
            if first is not None and not torch.equal(first.value(), second.value()):
                files = f"{first.file.name} and {file.name}"
                raise RunError(f"{path} has two values of {name}, in {files}; keep one of them")
            stored[name] = second
    return stored


def weights_digest(path: Path) -> str:
    """A digest of all names and shapes and of a sample of the values.

    It differs between two runs' weights, but may miss a change of single values.
    """
    total = hashlib.sha256(path.read_bytes() if path.name.endswith(INDEX) else b"")
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


def _read_index(path: Path) -> dict[str, dict[str, str]]:
    """The maps of an index; `drawn` as one from each name to itself. Raises RunError."""
    try:
        index = json.loads(path.read_text())
        index["drawn"] = {name: name for name in index.get("drawn", [])}
        return {
            key: {str(name): str(value) for name, value in index[key].items()}
            for key in ("weight_map", "stored_names", "drawn")
            if key == "weight_map" or key in index
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise RunError(f"{path} is no index of safetensors files; {FIX_INDEX}") from None


def _files(path: Path) -> list[Path]:
    if path.name.endswith(INDEX):
        return [
            path.parent / name for name in sorted(set(_read_index(path)["weight_map"].values()))
        ]
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise RunError(
            f"no safetensors file at {path}; fix weights: in the job file and compile again, or "
            "where they were moved with the model's code, give that folder as --code"
        )
    return files
