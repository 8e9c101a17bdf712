"""A stage's values: the plan's first ones, those of a checkpoint or of safetensors, or none."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.overrides import TorchFunctionMode

from pipecut.errors import UserFileError
from pipecut.plan.folder import PlanFolder
from pipecut.plan.schema import Stage, StageTensor
from pipecut.runtime.checkpoint.folder import latest
from pipecut.runtime.checkpoint.manifest import read_manifest
from pipecut.runtime.checkpoint.reading import read_tensors
from pipecut.runtime.checkpoint.resume import refuse_other_model
from pipecut.runtime.engine.stage import build_module
from pipecut.runtime.ranks.first_values import fill
from pipecut.runtime.ranks.frozen_values import refuse_other_values, with_only

NONE = "none"


@dataclass(frozen=True)
class StageValues:
    """A stage as a module, and its parameters by first FQN; with no values, they are on meta."""

    module: nn.Module
    parameters: dict[str, torch.Tensor]
    buffers: dict[str, torch.Tensor]


class Weights:
    """Where values come from: `none`, a checkpoint, safetensors, or what training begins with."""

    def __init__(self, folder: PlanFolder, given: str | None) -> None:
        """Raises UserFileError and CheckpointError where `given` is not of the plan's model."""
        self.folder, self.absent = folder, given == NONE
        self.checkpoint: Path | None = None
        self.plan = folder.plan
        if given is None or self.absent:
            return
        path = Path(given)
        if not path.exists():
            raise UserFileError(
                f"--weights {given}: there is no such file or folder; give a checkpoint, a folder "
                "of them, safetensors with the model's names, or none for the structure alone"
            )
        self.checkpoint = latest(path) if path.is_dir() else None
        if self.checkpoint is None and path.is_dir() and not any(path.glob("*.safetensors")):
            raise UserFileError(
                f"--weights {given}: the folder has neither checkpoints nor safetensors; give one "
                "that has, or none for the structure alone"
            )
        if self.checkpoint is None:
            model = folder.plan.model.model_copy(update={"weights": str(path.resolve())})
            self.plan = folder.plan.model_copy(update={"model": model})
        else:
            refuse_other_model(str(self.checkpoint), folder.plan, read_manifest(self.checkpoint))

    def __str__(self) -> str:
        """What to call them in a message."""
        if self.absent:
            return "no weights: the structure alone"
        if self.checkpoint is not None:
            return f"the weights of {self.checkpoint}"
        model = self.plan.model
        return f"the weights of {model.weights}" if model.weights else f"what {model.factory} draws"

    def of(self, stage: Stage) -> StageValues:
        """A stage with its values, which are held for this stage alone. Raises RunError."""
        with _EmptyOnMeta() if self.absent else nullcontext():
            module = build_module(self.folder.path, self.plan, stage, torch.device("cpu"))
        tensors = _tensors(module)
        if self.absent:
            _load_buffers(self.folder.path / stage.file, stage, module)
        elif self.checkpoint is not None:
            self._take_frozen(self.checkpoint, stage, tensors)
            self._restore(self.checkpoint, stage, tensors)
        else:
            fill(self.plan, [stage], tensors)
        return StageValues(
            module,
            {p.names[0]: module.get_parameter(p.names[0]).detach() for p in stage.parameters},
            {b.names[0]: module.get_buffer(b.names[0]).detach() for b in stage.buffers},
        )

    @torch.no_grad()
    def fill_unsplit(self, model: nn.Module) -> None:
        """Give the unsplit model a checkpoint's values; those of weights it has from the plan."""
        if self.checkpoint is None:
            return
        tensors = _tensors(model)
        for stage in self.plan.stages:
            self._restore(self.checkpoint, stage, tensors)

    def _take_frozen(self, path: Path, stage: Stage, tensors: dict[str, torch.Tensor]) -> None:
        """Values of the plan's for what the checkpoint leaves out. Raises CheckpointError."""
        digests = read_manifest(path).frozen
        (of_stage,) = with_only(digests, [stage])
        names = {name for parameter in of_stage.parameters for name in parameter.names}
        if names:
            left_out = {name: tensors[name] for name in names}
            fill(self.plan, [of_stage], left_out)
            model = self.plan.model
            refuse_other_values(str(path), digests, left_out, model.weights or model.factory)

    @torch.no_grad()
    def _restore(self, path: Path, stage: Stage, tensors: dict[str, torch.Tensor]) -> None:
        stored = {f"parameter/{tensor.names[0]}": tensor for tensor in stage.parameters}
        stored |= {f"buffer/{buffer.names[0]}": buffer for buffer in stage.buffers if _kept(buffer)}
        manifest = read_manifest(path)
        wanted = [name for name in stored if name.removeprefix("parameter/") not in manifest.frozen]
        for name, value in read_tensors(path, manifest, wanted).items():
            tensors[stored[name].names[0]].copy_(value)


class _EmptyOnMeta(TorchFunctionMode):
    """Tensors that a stage makes without values take no memory.

    A stage cannot be built on meta itself: safetensors reads its buffers onto devices alone.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        on_meta = {"device": "meta"} if func is torch.empty else {}
        return func(*args, **{**(kwargs or {}), **on_meta})


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by each of their names."""
    parameters = module.named_parameters(remove_duplicate=False)
    return {**dict(parameters), **dict(module.named_buffers(remove_duplicate=False))}


def _kept(buffer: StageTensor) -> bool:
    """Whether checkpoints have a buffer."""
    return buffer.persistent or buffer.written


def _load_buffers(file: Path, stage: Stage, module: nn.Module) -> None:
    """Give a module without values the plan's buffers: constants are part of the structure."""
    if not stage.buffers:
        return
    values = load_file(str(file.with_suffix(".safetensors")))
    for buffer in stage.buffers:
        for name in buffer.names:
            owner, _, last = name.rpartition(".")
            module.get_submodule(owner)._buffers[last] = values[buffer.names[0]]
