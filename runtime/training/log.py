"""`pipecut run --log FOLDER`: a line of JSON per step and evaluation, and TensorBoard's events.

Each line is flushed when it is written, so that whatever ends the run loses none. A training that
goes on from a checkpoint takes back the steps after it: their lines move to another file.
"""

import json
import os
import sys
import time
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

from pipecut.errors import RunError, UserFileError
from pipecut.runtime.training.step_record import StepRecord

STEPS, TAKEN_BACK = "steps.jsonl", "taken_back.jsonl"
# Seconds between flushes of TensorBoard's events.
FLUSHED = 1.0
NO_TENSORBOARD = (
    "no TensorBoard events are written, since tensorboard is not installed: "
    "pip install tensorboard, or pip install 'pipecut[tensorboard]'"
)


def refuse_other_log(folder: Path, goes_on: bool) -> None:
    """Raises UserFileError where a new training would be added to the log of another."""
    file = folder / STEPS
    if not goes_on and file.exists() and file.stat().st_size:
        raise UserFileError(
            f"--log {folder} has the log of another training; give another folder, or --resume to "
            "go on with it"
        )


class TrainingLog:
    """The log of a training that has made `begun` steps; on rank 0 alone. Raises RunError."""

    def __init__(self, folder: Path, begun: int) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            take_back(folder, begun)
            self.file: TextIO = (folder / STEPS).open("a", encoding="utf-8")
        except OSError as error:
            raise RunError(f"--log {folder} cannot be written: {error}") from None
        self.begun = begun
        self.flushed = time.monotonic()

    @cached_property
    def events(self) -> Any:
        """TensorBoard's writer; None without it. Made at the first step: others may end a run."""
        return _events(self.folder, self.begun)

    def add(self, record: StepRecord) -> None:
        """A step."""
        self._write(record.as_json())

    def add_evaluation(self, step: int, loss: float) -> None:
        """The loss in eval mode after a step."""
        self._write({"step": step, "eval_loss": loss})

    def close(self) -> None:
        """Flush all of it."""
        self.file.close()
        if self.__dict__.get("events") is not None:
            self.events.close()

    def _write(self, values: dict[str, Any]) -> None:
        try:
            self.file.write(json.dumps(values) + "\n")
            self.file.flush()
        except OSError as error:
            raise RunError(f"--log {self.folder} cannot be written: {error}") from None
        if self.events is None:
            return
        for name, value in values.items():
            if name != "step" and value is not None:
                self.events.add_scalar(name, value, values["step"])
        if time.monotonic() - self.flushed > FLUSHED:
            self.events.flush()
            self.flushed = time.monotonic()


def take_back(folder: Path, begun: int) -> None:
    """Move the lines of steps after `begun`, and a line that was cut off, to another file."""
    file = folder / STEPS
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    kept = [line for line in lines if 0 < _step_of(line) <= begun]
    others = [line for line in lines if not 0 < _step_of(line) <= begun]
    if not others:
        return
    with (folder / TAKEN_BACK).open("a", encoding="utf-8") as taken_back:
        taken_back.writelines(line.rstrip("\n") + "\n" for line in others)
    partial = file.with_suffix(".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    os.replace(partial, file)


def _step_of(line: str) -> int:
    """The step of a line; 0 for one that is not whole."""
    try:
        values = json.loads(line) if line.endswith("\n") else None
    except ValueError:
        return 0
    step = values.get("step") if isinstance(values, dict) else None
    return step if isinstance(step, int) else 0


def _events(folder: Path, begun: int) -> Any:
    """TensorBoard's writer, which hides the events of steps after `begun`; None without it."""
    if find_spec("tensorboard") is None:
        print(f"pipecut: {NO_TENSORBOARD}", file=sys.stderr, flush=True)
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=begun + 1 if begun else None)
