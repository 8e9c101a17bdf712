"""Modules of torch that hold an operator's parameters and do what it does.

A form returns None for a call that such a module does not make.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipecut.compiler.graph import Parameter, Ref


@dataclass
class HeldCall:
    """A module's one operator: its arguments, what the module is given, and its parameters by name.

    `used` are the names of parameters that are among the arguments.
    """

    args: tuple[Any, ...]
    given: str
    parameters: Mapping[str, Parameter]
    used: set[str] = field(default_factory=set)

    def at(self, position: int, default: Any = None) -> Any:
        """An argument, or what stands for it where the call ends before."""
        return self.args[position] if len(self.args) > position else default

    def is_input(self, position: int) -> bool:
        """Whether an argument is what the block is given."""
        return bool(self.at(position) == Ref(self.given))

    def parameter(self, position: int, name: str) -> Parameter | None:
        """The parameter of a name, where the argument is that."""
        argument = self.at(position)
        if not isinstance(argument, Ref) or name not in self.parameters:
            return None
        parameter = self.parameters[name]
        if parameter.value != argument.name:
            return None
        self.used.add(name)
        return parameter


ModuleForm = Callable[[HeldCall], str | None]


def linear(call: HeldCall) -> str | None:
    """`nn.Linear(192, 576)`."""
    weight = call.parameter(1, "weight")
    if weight is None or not call.is_input(0) or len(weight.shape) != 2:
        return None
    bias = call.parameter(2, "bias")
    if bias is None and call.at(2) is not None:
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    out, into = weight.shape
    return f"nn.Linear({into}, {out}{'' if bias else ', bias=False'})"


def embedding(call: HeldCall) -> str | None:
    """`nn.Embedding(50257, 768)`."""
    weight = call.parameter(0, "weight")
    if weight is None or not call.is_input(1) or len(weight.shape) != 2 or len(call.args) > 3:
        return None
    padding = call.at(2, -1)
    padded = "" if padding == -1 else f", padding_idx={padding}"
    return f"nn.Embedding({weight.shape[0]}, {weight.shape[1]}{padded})"


def layer_norm(call: HeldCall) -> str | None:
    """`nn.LayerNorm(768)`."""
    shape, epsilon = call.at(1), call.at(4, 1e-5)
    if not call.is_input(0) or not all(isinstance(size, int) for size in shape):
        return None
    weight, bias = call.parameter(2, "weight"), call.parameter(3, "bias")
    if weight is None or (bias is None and call.at(3) is not None):
        return None
    sizes = f"({', '.join(map(str, shape))},)" if len(shape) > 1 else str(shape[0])
    precise = "" if epsilon == 1e-5 else f", eps={epsilon!r}"
    return f"nn.LayerNorm({sizes}{precise}{'' if bias else ', bias=False'})"


def convolution(dimensions: int) -> ModuleForm:
    """`nn.Conv2d(3, 64, 7, stride=2)`, by its dimensions."""

    def write(call: HeldCall) -> str | None:
        weight, bias = call.parameter(1, "weight"), call.parameter(2, "bias")
        if weight is None or not call.is_input(0) or (bias is None and call.at(2) is not None):
            return None
        ones, zeros = (1,) * dimensions, (0,) * dimensions
        stride, padding, dilation = call.at(3, ones), call.at(4, zeros), call.at(5, ones)
        groups = call.at(6, 1)
        if any(not _sizes(option, dimensions) for option in (stride, padding, dilation)):
            return None
        out, into, *kernel = weight.shape
        options = [str(into * groups), str(out), _short(tuple(kernel))]
        for name, option, usual in (
            ("stride", stride, ones),
            ("padding", padding, zeros),
            ("dilation", dilation, ones),
        ):
            options += [f"{name}={_short(option)}"] if option != usual else []
        options += [f"groups={groups}"] if groups != 1 else []
        options += [] if bias else ["bias=False"]
        return f"nn.Conv{dimensions}d({', '.join(options)})"

    return write


def _sizes(option: Any, dimensions: int) -> bool:
    whole = isinstance(option, tuple) and len(option) == dimensions
    return whole and all(isinstance(size, int) for size in option)


def _short(sizes: tuple[int, ...]) -> str:
    """`3` of (3, 3)."""
    return str(sizes[0]) if len(set(sizes)) == 1 else f"({', '.join(map(str, sizes))})"


def dropout(call: HeldCall) -> str | None:
    """`nn.Dropout(0.1)`."""
    return f"nn.Dropout({call.at(1)!r})" if call.is_input(0) and call.at(2) is True else None
