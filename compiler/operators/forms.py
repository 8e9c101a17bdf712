"""Readable forms of calls in stage code: `F.linear(x, w, b)`, `x + y`, `x.view([2, 3])`.

A form returns None for a call that it cannot write with the same meaning; the operator itself is
called then.
"""

import ast
import sys
from collections.abc import Callable
from dataclasses import dataclass

# Overloads whose arguments a function of torch takes in the schema's order.
TORCH_OVERLOADS = ("default", "Tensor", "self", "Tensor_Scalar")
# The end of a slice that has none.
ALL = str(sys.maxsize)
# What torch.nn.functional calls cross entropy's reductions.
REDUCTIONS = {"0": "none", "1": "mean", "2": "sum"}


@dataclass(frozen=True)
class WrittenCall:
    """A call whose arguments are code already.

    `tensor_first`: the first argument is a tensor. `by_mode`: an argument differs in eval mode.
    """

    target: str
    args: tuple[str, ...]
    kwargs: dict[str, str]
    tensor_first: bool
    by_mode: bool

    @property
    def name(self) -> str:
        """The operator's name: `linear` of aten.linear.default."""
        return self.target.split(".")[-2]

    @property
    def overload(self) -> str:
        """The overload's name: `default` of aten.linear.default."""
        return self.target.split(".")[-1]

    def arguments(self, start: int = 0) -> str:
        """All arguments from a position on, keyword arguments last."""
        named = (f"{key}={value}" for key, value in self.kwargs.items())
        return ", ".join([*self.args[start:], *named])


Form = Callable[[WrittenCall], str | None]


def infix(symbol: str) -> Form:
    """`a + b`."""

    def write(call: WrittenCall) -> str | None:
        if len(call.args) != 2 or call.kwargs or not call.tensor_first:
            return None
        return f"{call.args[0]} {symbol} {operand(call.args[1])}"

    return write


def size(call: WrittenCall) -> str | None:
    """`x.size(0)`."""
    return f"{call.args[0]}.size({call.args[1]})"


def method(call: WrittenCall) -> str | None:
    """`x.view(...)`."""
    return f"{call.args[0]}.{call.name}({call.arguments(1)})" if call.tensor_first else None


def method_of(*overloads: str) -> Form:
    """`x.sum([0])`, for overloads that the method has."""

    def write(call: WrittenCall) -> str | None:
        return method(call) if call.overload in overloads else None

    return write


def cast(call: WrittenCall) -> str | None:
    """`x.to(torch.float32)`."""
    plain = call.overload == "dtype" and len(call.args) == 2 and not call.kwargs
    return method(call) if plain else None


def sliced(call: WrittenCall) -> str | None:
    """`x[:, 2:5]`; a slice of all is the operator itself."""
    if call.kwargs or len(call.args) not in (3, 4) or not call.args[1].isdigit():
        return None
    start, *end = (argument.replace("None", "") for argument in call.args[2:])
    start = "" if start == "0" else start
    stop = "" if not end or end[0] == ALL else end[0]
    before = ":, " * int(call.args[1])
    return f"{call.args[0]}[{before}{start}:{stop}]" if start or stop else None


def torch_function(call: WrittenCall) -> str | None:
    """`torch.tanh(x)`."""
    return f"torch.{call.name}({call.arguments()})" if call.overload in TORCH_OVERLOADS else None


def functional(call: WrittenCall) -> str | None:
    """`F.linear(x, w, b)`."""
    return f"F.{call.name}({call.arguments()})" if call.overload == "default" else None


def dropout(call: WrittenCall) -> str | None:
    """`F.dropout(x, p, training)`."""
    if len(call.args) != 3 or call.kwargs:
        return None
    in_place = ["True"] if call.name.endswith("_") else []
    return f"F.dropout({', '.join([*call.args, *in_place])})"


def batch_norm(call: WrittenCall) -> str | None:
    """`F.batch_norm(x, mean, variance, weight, bias, training, momentum, eps)`."""
    if len(call.args) != 9 or call.kwargs:
        return None
    x, weight, bias, mean, variance, training, momentum, eps, _ = call.args
    arguments = (x, mean, variance, weight, bias, training, momentum, eps)
    return f"F.batch_norm({', '.join(arguments)})"


def norm(call: WrittenCall) -> str | None:
    """`F.layer_norm(x, shape, weight, bias, eps)`, or group_norm: without the flag for cuDNN."""
    if call.kwargs or len(call.args) < 5 or call.by_mode:
        return None
    return f"F.{call.name}({', '.join(call.args[:5])})"


def embedding(call: WrittenCall) -> str | None:
    """`F.embedding(indices, weight)`: indices stand second in the operator."""
    if call.kwargs or len(call.args) not in (2, 3) or call.by_mode:
        return None
    padded = len(call.args) == 3 and call.args[2] != "-1"
    padding = f", padding_idx={call.args[2]}" if padded else ""
    return f"F.embedding({call.args[1]}, {call.args[0]}{padding})"


def cross_entropy(call: WrittenCall) -> str | None:
    """`F.cross_entropy(logits, labels)` without a weight for each class."""
    # Positions of the operator: logits, labels, weight, reduction, ignore_index, label_smoothing.
    args = call.args
    if call.kwargs or call.by_mode or (len(args) > 2 and args[2] != "None"):
        return None
    options = []
    if len(args) > 4 and args[4] != "-100":
        options.append(f"ignore_index={args[4]}")
    if len(args) > 3 and REDUCTIONS[args[3]] != "mean":
        options.append(f'reduction="{REDUCTIONS[args[3]]}"')
    if len(args) > 5 and args[5] != "0.0":
        options.append(f"label_smoothing={args[5]}")
    return f"F.cross_entropy({', '.join([*args[:2], *options])})"


def attention(call: WrittenCall) -> str | None:
    """`F.scaled_dot_product_attention(q, k, v, is_causal=True)`."""
    keywords = ("scale", "enable_gqa", "is_causal", "dropout_p")
    if set(call.kwargs) - set(keywords):
        return None
    # Positions 3 to 5 of the operator, with their defaults.
    optional = (("attn_mask", "None"), ("dropout_p", "0.0"), ("is_causal", "False"))
    written = zip(optional, call.args[3:6], strict=False)
    named = [f"{name}={code}" for (name, default), code in written if code != default]
    named += [f"{key}={value}" for key, value in call.kwargs.items()]
    return f"F.scaled_dot_product_attention({', '.join([*call.args[:3], *named])})"


def operand(code: str) -> str:
    """Code that binds no less than any operator: what is divided by `8*batch` needs brackets."""
    atoms = ast.Name, ast.Constant, ast.Attribute, ast.Call, ast.Subscript
    return code if isinstance(ast.parse(code, mode="eval").body, atoms) else f"({code})"
