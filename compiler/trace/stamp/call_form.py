"""What a call of a layer takes and returns, without the values: two calls alike have one form."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from pipecut.compiler.trace.stamp.same_value import BY_VALUE, PLAIN
from pipecut.compiler.trace.watch.value_reads import ValueReads


class NoForm(Exception):
    """A call takes or returns something whose meaning no form has; the text names it."""


@dataclass(frozen=True)
class CallForm:
    """Arguments of a call: how they are nested, their shapes and dtypes, flags and numbers.

    It also has what surrounds a call: whether gradients are on, autocast, default dtype and device,
    and how exact operators are to be.
    """

    nesting: TreeSpec
    leaves: tuple[Any, ...]
    surroundings: tuple[Any, ...]


@dataclass(frozen=True)
class Call:
    """A call's form, its tensors without repetition, and all leaves of its arguments."""

    form: CallForm
    tensors: tuple[torch.Tensor, ...]
    leaves: tuple[Any, ...]

    def is_untouched(self, args: Any, kwargs: Any) -> bool:
        """Whether the arguments are nested and hold what they did when the call began."""
        leaves, nesting = tree_flatten((args, kwargs))
        return (
            nesting == self.form.nesting
            and len(leaves) == len(self.leaves)
            and all(now is before for now, before in zip(leaves, self.leaves, strict=True))
        )


@dataclass(frozen=True)
class Given:
    """A result that is the call's own tensor of a position."""

    position: int


@dataclass(frozen=True)
class Made:
    """A result that the layer made: its position among these, and what it looks like."""

    position: int
    looks: tuple[Any, ...]


@dataclass(frozen=True)
class Plain:
    """A leaf that is no tensor: what it is compared by, and itself."""

    key: str
    value: Any = field(compare=False)


@dataclass(frozen=True)
class ResultForm:
    """Results of a call: how they are nested, and where each comes from."""

    nesting: TreeSpec
    leaves: tuple[Any, ...]

    def filled(self, given: Sequence[torch.Tensor], made: Sequence[torch.Tensor]) -> Any:
        """The results of another call of the same form."""
        leaves = []
        for leaf in self.leaves:
            match leaf:
                case Given(position):
                    leaves.append(given[position])
                case Made(position):
                    leaves.append(made[position])
                case _:
                    leaves.append(leaf.value)
        return tree_unflatten(leaves, self.nesting)


def call_of(args: Any, kwargs: Any) -> Call:
    """Raises NoForm for an argument that is neither tensor nor plain."""
    leaves, nesting = tree_flatten((args, kwargs))
    tensors: list[torch.Tensor] = []
    places: dict[int, int] = {}
    storages: dict[int, int] = {}
    forms: list[Any] = []
    for leaf in leaves:
        if not isinstance(leaf, torch.Tensor):
            forms.append(_plain(leaf))
            continue
        if id(leaf) not in places:
            places[id(leaf)] = len(tensors)
            tensors.append(leaf)
        storage = storages.setdefault(storage_of(leaf), len(storages))
        # What the model may branch on: the tensor itself then.
        known = id(leaf) if _is_known(leaf) else 0
        forms.append((places[id(leaf)], storage, known, looks_of(leaf)))
    form = CallForm(nesting, tuple(forms), _surroundings())
    return Call(form, tuple(tensors), tuple(leaves))


def results_of(call: Call, result: Any) -> tuple[ResultForm, tuple[torch.Tensor, ...]]:
    """The form of a call's results, and the tensors that it made. Raises NoForm."""
    leaves, nesting = tree_flatten(result)
    places = {id(tensor): position for position, tensor in enumerate(call.tensors)}
    taken = {storage_of(tensor) for tensor in call.tensors}
    made: list[torch.Tensor] = []
    forms: list[Any] = []
    for leaf in leaves:
        if not isinstance(leaf, torch.Tensor):
            forms.append(_plain(leaf))
        elif id(leaf) in places:
            forms.append(Given(places[id(leaf)]))
        else:
            position = next((i for i, tensor in enumerate(made) if tensor is leaf), len(made))
            if position == len(made):
                _check_own(leaf, taken)
                taken.add(storage_of(leaf))
                made.append(leaf)
            forms.append(Made(position, looks_of(leaf)))
    if not made:
        raise NoForm("it makes no tensor")
    return ResultForm(nesting, tuple(forms)), tuple(made)


def _check_own(tensor: torch.Tensor, taken: set[int]) -> None:
    if _is_known(tensor) or isinstance(tensor, torch.nn.Parameter):
        raise NoForm("it returns a constant")
    if storage_of(tensor) in taken:
        raise NoForm("a result shares memory with another tensor")


def looks_of(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Class, shape, strides, dtype and the like, sizes as expressions."""
    if tensor.layout != torch.strided:
        raise NoForm(f"a tensor is {tensor.layout}")
    return (
        type(tensor),
        tuple(map(_size, tensor.shape)),
        tuple(map(_size, tensor.stride())),
        _size(tensor.storage_offset()),
        tensor.dtype,
        tensor.device,
        tensor.requires_grad,
        tensor.is_conj(),
        tensor.is_neg(),
    )


def storage_of(tensor: torch.Tensor) -> int:
    """A number that tensors of one memory have in common."""
    return int(tensor.untyped_storage()._cdata)


def _size(size: Any) -> Any:
    return size.node.expr if isinstance(size, torch.SymInt) else size


def _plain(leaf: Any) -> Plain:
    if isinstance(leaf, torch.SymInt):
        return Plain(f"size {_size(leaf)}", leaf)
    if type(leaf) in PLAIN or isinstance(leaf, BY_VALUE):
        return Plain(f"{type(leaf).__name__} {leaf!r}", leaf)
    raise NoForm(f"it takes or returns a {type(leaf).__name__}")


def _is_known(tensor: torch.Tensor) -> bool:
    """Whether the model may ask for the tensor's values while it is traced."""
    return any(
        isinstance(mode, ValueReads) and id(tensor) in mode.values.known
        for mode in _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    )


def _surroundings() -> tuple[Any, ...]:
    return (
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.is_autocast_enabled("cuda"),
        torch.get_autocast_dtype("cuda"),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
    )
