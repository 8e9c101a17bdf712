"""Build a model without holding it: parameters on meta, or only a few of them real.

The generator is advanced for every random fill of a parameter that is not kept, so that what is kept gets the very
values that the whole model would have got from the same seed.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

Keep = Callable[[int], bool]


class _AdvanceGenerator(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A random in-place fill of a meta tensor runs on a scratch tensor instead, one at a time."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        random = torch.Tag.nondeterministic_seeded in func.tags
        if random and args and isinstance(args[0], torch.Tensor) and args[0].is_meta:
            scratch = torch.empty_like(args[0], device="cpu")
            func(scratch, *args[1:], **kwargs)
        return func(*args, **kwargs)


@contextmanager
def counted_parameters(keep: Keep, advance: bool) -> Iterator[list[tuple[nn.Parameter, int | None]]]:
    """Number the parameters in the order of their creation; those that `keep` refuses go to meta at once.

    `advance` draws the random numbers of the refused ones too, so that the kept ones get what they would have got.

    Yields a list of (parameter, number of the parameter it was copied from), by number.
    """
    born: list[tuple[nn.Parameter, int | None]] = []
    register, deepcopy = nn.Module.register_parameter, nn.Parameter.__deepcopy__

    def admit(parameter: nn.Parameter, origin: int | None) -> nn.Parameter:
        number = len(born)
        if not keep(number) and not parameter.is_meta:
            kept = nn.Parameter(parameter.data.to("meta"), requires_grad=parameter.requires_grad)
            kept.__dict__.update(parameter.__dict__)
            parameter._pipecut_twin = kept  # type: ignore[attr-defined]
            parameter = kept
        parameter._pipecut_number = number  # type: ignore[attr-defined]
        born.append((parameter, origin))
        return parameter

    def register_parameter(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None:
            param = getattr(param, "_pipecut_twin", param)
            if not hasattr(param, "_pipecut_number"):
                param = admit(param, None)
        register(self, name, param)

    def copy_parameter(self: nn.Parameter, memo: dict[int, Any]) -> Any:
        if id(self) in memo:
            return memo[id(self)]
        origin = getattr(self, "_pipecut_number", None)
        result = admit(deepcopy(self, {}), origin)  # type: ignore[no-untyped-call]
        memo[id(self)] = result
        return result

    nn.Module.register_parameter = register_parameter  # type: ignore[method-assign]
    nn.Parameter.__deepcopy__ = copy_parameter  # type: ignore[assignment]
    try:
        with _AdvanceGenerator() if advance else nullcontext():  # type: ignore[no-untyped-call]
            yield born
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
        nn.Parameter.__deepcopy__ = deepcopy  # type: ignore[method-assign]


def build_on_meta(factory: Callable[[], nn.Module]) -> nn.Module:
    """The model with parameters on meta and real buffers. The caller's generator is left as it was."""
    with torch.random.fork_rng(devices=[]), counted_parameters(lambda _: False, advance=False):
        return factory()


def initial_parameters(factory: Callable[[], nn.Module], seed: int, wanted: set[str]) -> tuple[dict[str, torch.Tensor], bool]:
    """The parameters named in `wanted` with the values the whole model gets from `seed`.

    Returns them by FQN, and whether the whole model had to be built because one parameter is computed from another.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with counted_parameters(lambda _: False, advance=False) as born:
            model = factory()
        numbers = {
            getattr(parameter, "_pipecut_number", None)
            for name, parameter in model.named_parameters(remove_duplicate=False)
            if name in wanted
        }
        for number in range(len(born) - 1, -1, -1):
            if number in numbers:
                numbers.add(born[number][1])
        del model
        try:
            torch.manual_seed(seed)
            with counted_parameters(lambda number: number in numbers, advance=True):
                model = factory()
            found = {n: p.data for n, p in model.named_parameters(remove_duplicate=False) if n in wanted}
            if not any(p.is_meta for p in found.values()):
                return found, False
        except NotImplementedError:
            pass  # A value was read from a parameter on meta: only the whole model gives it.
        torch.manual_seed(seed)
        model = factory()
        found = {n: p.data for n, p in model.named_parameters(remove_duplicate=False) if n in wanted}
        return copy.copy(found), True
