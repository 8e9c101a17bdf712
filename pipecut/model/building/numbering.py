"""Number a model's parameters in the order of their creation, while it is built."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

Replace = Callable[[nn.Parameter, int], nn.Parameter]


@contextmanager
def counted_parameters(replace: Replace) -> Iterator[None]:
    """Number new parameters; `replace(parameter, number)` returns what the model gets instead.

    The number is the parameter's `_pipecut_number`.
    """
    register, deepcopy = nn.Module.register_parameter, nn.Parameter.__deepcopy__
    count = 0

    def admit(parameter: nn.Parameter) -> nn.Parameter:
        nonlocal count
        replacement = replace(parameter, count)
        replacement._pipecut_number = count  # type: ignore[attr-defined]
        if replacement is not parameter:
            parameter._pipecut_twin = replacement  # type: ignore[attr-defined]
        count += 1
        return replacement

    def register_parameter(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None:
            param = getattr(param, "_pipecut_twin", param)
            if not hasattr(param, "_pipecut_number"):
                param = admit(param)
        register(self, name, param)

    def copy_parameter(self: nn.Parameter, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            memo[id(self)] = admit(deepcopy(self, {}))  # type: ignore[no-untyped-call]
        return memo[id(self)]

    nn.Module.register_parameter = register_parameter  # type: ignore[method-assign]
    nn.Parameter.__deepcopy__ = copy_parameter  # type: ignore[assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
        nn.Parameter.__deepcopy__ = deepcopy  # type: ignore[method-assign]


def number_of(parameter: nn.Parameter) -> int:
    """The parameter's number in the order of creation."""
    return int(parameter._pipecut_number)  # type: ignore[attr-defined]
