"""What sizes of a batch a trace leaves open, and whether it holds for all of them."""

import re
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import sympy
import torch
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from pipecut.compiler.trace.batch import ExampleBatch
from pipecut.compiler.trace.explain import first_line
from pipecut.compiler.trace.lengths import SHORTEST
from pipecut.model.functions import running_user_frame


@dataclass(frozen=True)
class Open:
    """Whether the number of samples and the lengths are left open; the least of some lengths."""

    batch: bool
    lengths: bool
    shortest: tuple[tuple[str, int], ...] = ()

    def shapes(self, batch: ExampleBatch) -> dict[str, dict[int, Any]] | None:
        """What torch.export takes: the open dimensions of each tensor; None where there is none."""
        if not self.batch and not self.lengths:
            return None
        dims: dict[str, Any] = {"batch": Dim("batch", min=1)} if self.batch else {}
        if self.lengths:
            least = dict(self.shortest)
            dims |= {
                name: Dim(name, min=least.get(name, SHORTEST), max=most)
                for name, most in batch.lengths.longest.items()
            }
        return {
            name: {d: dims[size] for d, size in batch.followed(name).items() if size in dims}
            for name in batch.tensors
        }

    def longer(self, failure: BaseException) -> "Open | None":
        """With the shortest lengths that torch.export asks for; None where it asks for none."""
        suggested = re.findall(r"(\w+) = Dim\('\w+', min=(\d+)(?:, max=\d+)?\)", str(failure))
        least = {name: int(size) for name, size in suggested if name != "batch"}
        if not self.lengths or not least or least.items() <= dict(self.shortest).items():
            return None
        return replace(self, shortest=tuple(sorted({**dict(self.shortest), **least}.items())))


FIXED = Open(False, False)
# What is tried in turn, and what where the number of samples cannot be left open.
ANY = (Open(True, True), Open(True, False), FIXED)
OF_ONE_SIZE = (Open(False, True), FIXED)


class UnprovenChoice(Exception):
    """The model's choice holds for some of the open sizes only."""


@contextmanager
def noting_fixed() -> Iterator[list[str]]:
    """Where a trace makes a number of a size that was left open: `24 (at model.py:7)`."""
    places: list[str] = []
    replace_symbol = ShapeEnv._set_replacement

    def noting(self: ShapeEnv, symbol: sympy.Symbol, by: sympy.Expr, why: str) -> None:
        replace_symbol(self, symbol, by, why)
        if by.is_number:
            places.append(f"{by}{_caller()}")

    with mock.patch.object(ShapeEnv, "_set_replacement", noting):
        yield places


def _caller() -> str:
    """The closest line of the user's that is running."""
    frame = running_user_frame(sys._getframe(1))
    if frame is None:
        return ""
    return f" (at {Path(frame.f_code.co_filename).name}:{frame.f_lineno})"


def check_choices(program: ExportedProgram, batch: ExampleBatch) -> None:
    """Raises UnprovenChoice where the trace took for granted what not all open sizes have.

    torch.export itself compares what it took for granted of one size with the size's limits, but
    not what it did of two.
    """
    environment = _environment(program)
    for guard in environment.guards if environment is not None else ():
        expression = environment.simplify(guard.expr)  # type: ignore[union-attr]
        if len(expression.free_symbols) > 1 and expression not in (True, sympy.true):
            names = named_symbols(program, batch, batch.lengths.longest)
            by_name = {s: sympy.Symbol(names.get(s, "batch")) for s in expression.free_symbols}
            raise UnprovenChoice(f"the model takes for granted that {expression.xreplace(by_name)}")


def why(failure: BaseException, fixed: Sequence[str]) -> str:
    """Why sizes cannot be left open, in a line, with the line of the model that fixes one."""
    if isinstance(failure, UnprovenChoice):
        return str(failure)
    named = re.search(r"You marked (\w+) as dynamic but your code specialized it", str(failure))
    if named is None:
        size = r"Not all values of (\w+) = (\S+) .* satisfy the generated guard (.+)"
        guarded = re.search(size, str(failure))
        if guarded is None:
            return first_line(failure)
        condition = guarded[3].replace(guarded[2], guarded[1]).rstrip(".")
        return f"the model takes for granted that {condition}"
    return f"{named[1]} is always {fixed[0]}" if fixed else f"the model fixes {named[1]}"


def named_symbols(
    program: ExportedProgram, batch: ExampleBatch, lengths: Collection[str]
) -> dict[Any, str]:
    """The symbols of a program that stand for lengths, which dimensions of inputs have."""
    placeholders = {n.name: n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder"}
    specs = program.graph_signature.input_specs
    inputs = [str(s.arg.name) for s in specs if s.kind == InputKind.USER_INPUT]
    names: dict[Any, str] = {}
    for name, placeholder in zip(batch.tensors, inputs, strict=True):
        for dimension, length in batch.lengths.of(name).items():
            size = placeholders[placeholder].shape[dimension]
            if length in lengths and isinstance(size, torch.SymInt):
                names[size.node.expr] = length
    return names


def _environment(program: ExportedProgram) -> ShapeEnv | None:
    for node in program.graph.nodes:
        value = node.meta.get("val")
        for size in value.shape if isinstance(value, torch.Tensor) else ():
            if isinstance(size, torch.SymInt):
                environment: ShapeEnv = size.node.shape_env
                return environment
    return None
