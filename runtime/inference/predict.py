"""Outputs of all batches of a function, over the ranks of a plan, into one file."""

import json
import os
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pipecut.plan.folder import plan_in
from pipecut.runtime.launch.launch import launch
from pipecut.runtime.ranks.devices import visible_devices

RANK = "pipecut.runtime.inference.rank"


@dataclass(frozen=True)
class PredictRequest:
    """The plan, the batches ("module:function"), and the file to write.

    The parameters are those of a `checkpoint`, of a file or folder of `weights`, or the plan's own.
    """

    plan: Path
    data: str
    output: Path
    checkpoint: Path | None = None
    weights: Path | None = None
    device: str | None = None
    code: Path | None = None

    def __str__(self) -> str:
        """As JSON, for the command line of a rank."""
        texts = {k: str(v) for k, v in asdict(self).items() if v is not None}
        return json.dumps(texts)

    @staticmethod
    def parse(text: str) -> "PredictRequest":
        """The reverse of `str`."""
        values: dict[str, Any] = json.loads(text)
        paths = {f.name for f in fields(PredictRequest)} - {"data", "device"}
        typed: dict[str, Any] = {k: Path(v) if k in paths else v for k, v in values.items()}
        return PredictRequest(**typed)


def predict(request: PredictRequest) -> None:
    """Run the ranks on this machine. Raises PlanError, RankLostError."""
    plan = plan_in(request.plan, request.code)
    devices = None if request.device else visible_devices(plan, os.environ)
    try:
        launch(plan.ranks, RANK, [str(request)], devices=devices)
    finally:
        # A rank that was killed leaves it.
        shutil.rmtree(partial_of(request.output), ignore_errors=True)


def partial_of(output: Path) -> Path:
    """The folder beside a file in which its outputs are collected."""
    return output.with_name(f".{output.name}.partial")
