"""Layers of a graph as pieces that run by themselves, timed whole: what single operators overstate or understate shows here.

The pieces run one after the other on a real batch, so that every tensor they get is one that the model makes.
"""

import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from pipecut.compiler.cut import Cut, batch_inputs_of
from pipecut.compiler.emit.module import write_stage
from pipecut.compiler.graph import Graph
from pipecut.compiler.profile.timing import Timed, time_passes


@dataclass(frozen=True)
class Piece:
    """Operators in program order that one layer, or one module outside the layers, makes in a row."""

    module: str
    operators: tuple[int, ...]


def pieces_of(graph: Graph) -> list[Piece]:
    """Every operator is in one piece."""
    runs: list[tuple[str, list[int]]] = []
    for index, operator in enumerate(graph.operators):
        layer = _layer(operator.module)
        # An operator of no module of its own goes with what is around it.
        if runs and (layer == runs[-1][0] or not operator.module):
            runs[-1][1].append(index)
        else:
            runs.append((layer, [index]))
    return [Piece(layer, tuple(own)) for layer, own in runs]


def _layer(module: str) -> str:
    parts = module.split(".")
    numbers = [at for at, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] + 1]) if numbers else parts[0]


class Runner:
    """Runs pieces in order on one device, with random parameters and one batch."""

    def __init__(self, graph: Graph, batch: dict[str, torch.Tensor], device: torch.device) -> None:
        self.graph, self.device = graph, device
        self.values = {value: batch[name].to(device) for value, name in graph.batch_inputs}
        self.made = graph.producers()
        self.last_use = {name: index for index, operator in enumerate(graph.operators) for name in operator.inputs}
        self.last_use[graph.loss] = len(graph.operators)

    def run(self, piece: Piece, timed: bool) -> Timed | None:
        """Go through a piece; its seconds where they are asked for and it can run backward by itself."""
        cut = self._cut(piece)
        module = self._module(cut)
        given = [self.values[name] for name in (*cut.receives, *cut.batch_inputs)]
        result = self._time(module, cut, given) if timed else None
        with torch.no_grad():
            outputs = module(*given)
        self.values |= dict(zip(cut.sends, outputs, strict=True))
        end = piece.operators[-1]
        for name in [n for n in self.values if n in self.made and self.last_use.get(n, -1) <= end]:
            del self.values[name]
        return result

    def _cut(self, piece: Piece) -> Cut:
        own = set(piece.operators)
        operators = [self.graph.operators[i] for i in piece.operators]
        used = dict.fromkeys(name for operator in operators for name in operator.inputs)
        receives = tuple(n for n in used if n in self.made and self.made[n] not in own)
        sends = tuple(o.name for o in operators if self.last_use.get(o.name, -1) > piece.operators[-1])
        batch_inputs = batch_inputs_of(self.graph, receives, used)
        parameters = tuple(p for p in self.graph.parameters if p.value in used)
        buffers = tuple(b for b in self.graph.buffers if b.value in used)
        return Cut(0, piece.operators, receives, sends, batch_inputs, parameters, buffers)

    def _module(self, cut: Cut) -> nn.Module:
        with tempfile.TemporaryDirectory(prefix="pipecut-piece-") as folder:
            path = Path(folder) / "stage_0.py"
            path.write_text(write_stage(self.graph, cut, 2, []), encoding="utf-8")
            if cut.buffers:
                data = {b.names[0]: b.data.contiguous().clone() for b in cut.buffers}
                save_file(data, str(path.with_suffix(".safetensors")))
            spec = importlib.util.spec_from_file_location("pipecut_piece", path)
            assert spec is not None and spec.loader is not None
            code = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(code)
            module: nn.Module = code.Stage0(device=self.device)
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, 0.02)
                else:
                    parameter.fill_(1)
        return module

    def _time(self, module: nn.Module, cut: Cut, given: list[torch.Tensor]) -> Timed | None:
        needs = [self.graph.values[name].needs_grad for name in (*cut.receives, *cut.batch_inputs)]

        def prepare() -> list[torch.Tensor]:
            # Copies, and no leaves: a piece may write to what it is given.
            return [t.detach().requires_grad_(need).clone() for t, need in zip(given, needs, strict=True)]

        def forward(inputs: list[torch.Tensor]) -> Any:
            return [o for o in module(*inputs) if o.requires_grad]

        def backward(outputs: Any) -> None:
            if outputs:
                torch.autograd.backward(outputs, [torch.ones_like(o) for o in outputs])

        try:
            return time_passes(prepare, forward, backward, self.device)
        except RuntimeError:
            # What writes to a tensor of another piece cannot run backward by itself.
            return None
