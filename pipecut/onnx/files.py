"""The files of an export: written beside each other, and moved into the folder when all are."""

import math
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import onnx
import onnx_ir as ir
import torch

from pipecut.errors import PlanError, UserFileError
from pipecut.onnx.manifest import MANIFEST
from pipecut.writable import writable_folder

# A tensor of fewer bytes is written into the graph's own file.
SMALL = 1024


class Destination:
    """A folder that has an export, or nothing; as a context, files are moved there at its end."""

    def __init__(self, output: Path) -> None:
        """Raises UserFileError where the folder has something else, or cannot be written."""
        self.output = output
        if output.is_dir() and any(output.iterdir()) and not (output / MANIFEST).is_file():
            raise UserFileError(
                f"-o {output}: the folder has other files, and no {MANIFEST} of an export; name "
                "another one"
            )
        self.is_new = not output.exists()
        writable_folder(output, "-o")

    def __enter__(self) -> Path:
        self.scratch = Path(tempfile.mkdtemp(dir=self.output, prefix=".partial-"))
        return self.scratch

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                for pattern in ("stage_*.onnx", "stage_*.onnx.data", MANIFEST):
                    for earlier in self.output.glob(pattern):
                        earlier.unlink()
                for file in sorted(self.scratch.iterdir()):
                    file.rename(self.output / file.name)
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)
            if kind is not None and self.is_new:
                with suppress(OSError):  # someone has put a file there
                    self.output.rmdir()


def write_stage(
    path: Path,
    model: ir.Model,
    held: tuple[ir.Value, ...],
    values: Mapping[str, torch.Tensor],
    absent: Mapping[str, torch.Tensor],
) -> bool:
    """Check a graph and write it with what it holds. Returns whether there is a data file.

    What is `absent` becomes external data that no file has: a name, a dtype, a shape. Raises
    PlanError where the result is no valid ONNX.
    """
    # Without values a graph is small; protobuf takes 2 GiB at most.
    _check(path.name, ir.to_proto(model))
    data = path.with_name(f"{path.name}.data")
    offset = 0
    for value in held:
        name = str(value.name)
        model.graph.inputs.remove(value)
        if name in absent:
            tensor = _absent(name, value, absent[name].shape, data.name, offset)
            offset += tensor.nbytes
            value.const_value = tensor
        else:
            value.const_value = ir.tensor_adapters.TorchTensor(values[name].contiguous(), name)
        model.graph.register_initializer(value)
    external = None if absent else data.name
    ir.save(model, path, external_data=external, size_threshold_bytes=SMALL)
    if not absent:
        _check(path.name, str(path))
    return data.is_file() or bool(absent)


def _absent(
    name: str, value: ir.Value, shape: torch.Size, file: str, offset: int
) -> ir.ExternalTensor:
    assert value.dtype is not None
    length = math.ceil(value.dtype.itemsize * shape.numel())
    sizes = ir.Shape(list(shape))
    return ir.ExternalTensor(file, offset, length, value.dtype, shape=sizes, name=name)


def _check(name: str, model: onnx.ModelProto | str) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().splitlines()[0]
        raise PlanError(f"{name} would be no valid ONNX: {reason}") from None
