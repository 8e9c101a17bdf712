"""Megatron's layout of a model of repeated layers: as pins of operators, and of a placement."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipecut.compiler.inputs.layout import EMBEDDING, HEAD, LAYER, Layout
from pipecut.compiler.operators.lookup import may_share_storage
from pipecut.errors import UserFileError
from pipecut.quantities import counted


class Traced(Protocol):
    """An operator, in a graph or in a plan."""

    @property
    def name(self) -> str:
        """Its result."""

    @property
    def target(self) -> str:
        """What it calls, such as aten.linear.default."""

    @property
    def module(self) -> str:
        """The FQN of its module."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The values that it takes."""


@dataclass(frozen=True)
class Anatomy:
    """Operators by what a layout has a letter for, by index; those of a layer by its number.

    `embedding` and `head` are those before and after the layers. What no parameter has a part in,
    as positions and masks, is in none of them: it may be computed wherever it is used. Nor are
    views, which go with what they show: the first of a layer may show the last result before it.
    """

    prefix: str
    layers: tuple[tuple[int, ...], ...]
    embedding: tuple[int, ...]
    head: tuple[int, ...]


def anatomy(operators: Sequence[Traced], parameters: Collection[str]) -> Anatomy:
    """Find the repeated layers, and what is before and after them.

    `parameters` are values. Raises UserFileError for a model without one list of layers.
    """
    prefix = _prefix_of_layers(operators)
    numbers = [_layer_of(operator.module, prefix) for operator in operators]
    layers: list[list[int]] = [[] for _ in range(1 + max(n for n in numbers if n is not None))]
    embedding: list[int] = []
    head: list[int] = []
    # Values that parameters have a part in, and of these those that layers have one in.
    touched, after = set(parameters), set[str]()
    for index, operator in enumerate(operators):
        number, inputs = numbers[index], set(operator.inputs)
        if not inputs & touched:
            continue
        touched.add(operator.name)
        if number is not None or inputs & after:
            after.add(operator.name)
        if may_share_storage(operator.target):
            continue
        if number is not None:
            layers[number].append(index)
        else:
            (head if operator.name in after else embedding).append(index)
    return Anatomy(prefix, tuple(map(tuple, layers)), tuple(embedding), tuple(head))


def _prefix_of_layers(operators: Sequence[Traced]) -> str:
    """The name of the one outermost list of modules that has two or more of them."""
    numbers: dict[str, set[int]] = {}
    for operator in operators:
        parts = operator.module.split(".")
        depth = next((d for d, part in enumerate(parts) if part.isdecimal()), None)
        if depth:
            numbers.setdefault(".".join(parts[:depth]), set()).add(int(parts[depth]))
    lists = {prefix: found for prefix, found in numbers.items() if len(found) > 1}
    if len(lists) != 1:
        several = f"several: {', '.join(sorted(lists))}" if lists else "none"
        raise UserFileError(f"a layout needs a model with one list of layers; this has {several}")
    ((prefix, found),) = lists.items()
    if found != set(range(len(found))):
        raise UserFileError(f"some layers of {prefix} have no operator, and a layout names all")
    return prefix


def _layer_of(module: str, prefix: str) -> int | None:
    inside = module.removeprefix(f"{prefix}.")
    number = inside.split(".")[0]
    return int(number) if inside != module and number.isdecimal() else None


def pins_of(
    layout: Layout, operators: Sequence[Traced], parameters: Collection[str]
) -> tuple[tuple[int, int], ...]:
    """The stage of each operator that the layout names. Raises UserFileError."""
    parts = anatomy(operators, parameters)
    if layout.layers != len(parts.layers):
        raise UserFileError(
            f"it has {counted(layout.layers, 'layer')}, and the model has {len(parts.layers)}, "
            f"{parts.prefix}.0 to {len(parts.layers) - 1}; write a t for each"
        )
    pins = dict.fromkeys(parts.embedding, layout.stage_with(EMBEDDING))
    pins |= dict.fromkeys(parts.head, layout.stage_with(HEAD))
    for layer, stage in zip(parts.layers, layout.stage_of_layer, strict=True):
        pins |= dict.fromkeys(layer, stage)
    return tuple(sorted(pins.items()))


def layout_of(
    operators: Sequence[Traced],
    parameters: Collection[str],
    stages_of: Sequence[Collection[int]],
    stages: int,
) -> Layout:
    """The layout of a placement, given each operator's stages. Raises UserFileError."""
    parts = anatomy(operators, parameters)
    letters = [""] * stages
    embedding = _one_stage("the embedding", parts.embedding, stages_of)
    letters[0 if embedding is None else embedding] += EMBEDDING
    for number, layer in enumerate(parts.layers):
        stage = _one_stage(f"{parts.prefix}.{number}", layer, stages_of)
        if stage is not None:
            letters[stage] += LAYER
    head = _one_stage("the head", parts.head, stages_of)
    letters[stages - 1 if head is None else head] += HEAD
    if "" in letters:
        raise UserFileError(f"stage {letters.index('')} has no whole layer, embedding or head")
    return Layout(tuple(letters))


def _one_stage(
    what: str, indices: Sequence[int], stages_of: Sequence[Collection[int]]
) -> int | None:
    """The stage of operators that are on one; None without any. Raises UserFileError."""
    # What several stages compute for themselves is no cut.
    single = [stages_of[index] for index in indices if len(stages_of[index]) == 1]
    stages = {stage for on_stages in single for stage in on_stages}
    if len(stages) > 1:
        raise UserFileError(f"{what} is cut between stages {', '.join(map(str, sorted(stages)))}")
    return next(iter(stages), None)
