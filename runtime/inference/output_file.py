"""Outputs of batch after batch in one safetensors file, none of which is kept in memory.

The file begins with the shapes of all tensors, which are known only after the last batch. So each
output is first written to a file of its own, sample after sample, and copied from there.
"""

import json
import mmap
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import torch
from safetensors.torch import _TYPES

from pipecut.errors import RunError
from pipecut.runtime.inference.predict import partial_of

NAMES_OF_TYPES = {dtype: name for name, dtype in _TYPES.items()}
# The header's length is a multiple of this, so that values are aligned.
ALIGNED = 8


@dataclass
class _Collected:
    """An output so far: its samples, and the shape of one of them; its samples' dimension."""

    path: Path
    file: BinaryIO
    dtype: torch.dtype
    shape: list[int]
    samples_at: int
    samples: int = 0

    @property
    def whole_shape(self) -> list[int]:
        """The shape of all of it."""
        return [*self.shape[: self.samples_at], self.samples, *self.shape[self.samples_at :]]

    @property
    def bytes(self) -> int:
        """Bytes of all of it."""
        return self.samples * prod(self.shape) * self.dtype.itemsize


class OutputFile:
    """A context that collects outputs; `finish` writes the file. Raises RunError.

    What was collected is in a folder beside it, which goes at the end whatever happens.
    """

    def __init__(self, path: Path, samples_at: Mapping[str, int]) -> None:
        self.path, self.samples_at = path, samples_at
        self.folder = partial_of(path)
        self.outputs: dict[str, _Collected] = {}
        self.batches = 0

    def __enter__(self) -> "OutputFile":
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for output in self.outputs.values():
            output.file.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """The outputs of the next batch."""
        self.batches += 1
        for name, tensor in tensors.items():
            by_sample = tensor.detach().cpu().movedim(self.samples_at[name], 0).contiguous()
            if name not in self.outputs:
                self.outputs[name] = self._new(name, by_sample)
            output = self.outputs[name]
            shape = list(by_sample.shape[1:])
            if (shape, by_sample.dtype) != (output.shape, output.dtype):
                raise RunError(
                    f"output '{name}' of batch {self.batches} has samples of "
                    f"{by_sample.dtype}{shape}, those before have {output.dtype}{output.shape}: "
                    "one file cannot hold both; give batches of one length, or predict those of "
                    "each length into a file of their own"
                )
            try:
                output.file.write(by_sample.flatten().view(torch.uint8).numpy().data)
            except OSError as error:
                raise self._unwritable(error) from None
            output.samples += len(by_sample)

    def finish(self) -> dict[str, list[int]]:
        """Write the file in place of one that is there. Returns the shape of each tensor."""
        header, begin = {}, 0
        for name, output in self.outputs.items():
            output.file.close()
            header[name] = {
                "dtype": NAMES_OF_TYPES[output.dtype],
                "shape": output.whole_shape,
                "data_offsets": [begin, begin + output.bytes],
            }
            begin += output.bytes
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % ALIGNED)
        whole = self.folder / "whole"
        try:
            with whole.open("wb") as file:
                file.write(len(text).to_bytes(8, "little") + text)
                for output in self.outputs.values():
                    _copy(output, file)
            whole.replace(self.path)
        except OSError as error:
            raise self._unwritable(error) from None
        return {name: output.whole_shape for name, output in self.outputs.items()}

    def _new(self, name: str, by_sample: torch.Tensor) -> _Collected:
        if by_sample.dtype not in NAMES_OF_TYPES:
            raise RunError(
                f"output '{name}' is {by_sample.dtype}, which safetensors has no name for"
            )
        path = self.folder / str(len(self.outputs))
        shape = list(by_sample.shape[1:])
        return _Collected(path, path.open("wb"), by_sample.dtype, shape, self.samples_at[name])

    def _unwritable(self, error: OSError) -> RunError:
        return RunError(f"{self.path} cannot be written: {error.strerror or error}")


def _copy(output: _Collected, file: BinaryIO) -> None:
    """Append an output; where its samples are not its outermost dimension, in their order."""
    if not output.bytes or not output.samples_at:
        with output.path.open("rb") as collected:
            shutil.copyfileobj(collected, file, mmap.PAGESIZE << 8)
        return
    values = np.memmap(output.path, np.uint8, "r+")
    by_sample = torch.from_numpy(values).view(output.dtype).view([output.samples, *output.shape])
    for part in by_sample.movedim(0, output.samples_at):
        file.write(part.contiguous().flatten().view(torch.uint8).numpy().data)
