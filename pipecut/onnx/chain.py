"""An exported plan in onnxruntime: each stage in turn, as the manifest says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from pipecut.errors import RunError
from pipecut.onnx.manifest import read_manifest

Arrays = dict[str, NDArray[np.generic]]


class Chain:
    """Stages one after the other, in one process."""

    def __init__(self, folder: Path) -> None:
        """Raises PlanError for a folder without a manifest, RunError for a file that cannot run."""
        self.manifest = read_manifest(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.sessions = [_session(folder / stage.file, options) for stage in self.manifest.stages]

    def run(self, batch: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """The model's outputs by name."""
        tensors: dict[tuple[int | None, str], NDArray[np.generic]] = {
            (None, name): array for name, array in batch.items()
        }
        pairs = zip(self.manifest.stages, self.sessions, strict=True)
        for stage, session in pairs:
            feeds = {port.name: tensors[port.stage, port.tensor] for port in stage.inputs}
            names = [port.name for port in stage.outputs]
            try:
                results = session.run(names, feeds)
            except Exception as error:
                raise _failed(stage.file, error) from error
            tensors |= {(stage.stage, name): r for name, r in zip(names, results, strict=True)}
        return {port.name: tensors[port.stage, port.tensor] for port in self.manifest.outputs}


def _session(file: Path, options: Any) -> Any:
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # onnxruntime's own errors have no base but this.
        raise _failed(file.name, error) from error


def _failed(file: str, error: Exception) -> RunError:
    return RunError(f"onnxruntime cannot run {file}: {str(error).splitlines()[0]}")
