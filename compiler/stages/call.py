"""One operator as a line of Python: `F.linear(x, w, b)` where the meaning is the same, the operator itself elsewhere."""

import ast
import math
from collections.abc import Callable
from typing import Any

from pipecut.compiler.graph import Literal, Operator, Ref, Sym

Names = Callable[[str], str]

INFIX = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "__and__": "&",
    "bitwise_and": "&",
    "__or__": "|",
    "matmul": "@",
}
COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
METHODS = {
    *(
        "view",
        "reshape",
        "transpose",
        "permute",
        "unsqueeze",
        "squeeze",
        "expand",
        "contiguous",
        "flatten",
        "float",
    ),
    *(
        "add_",
        "mul_",
        "sub_",
        "div_",
        "relu_",
        "masked_fill",
        "masked_fill_",
        "fill_",
        "copy_",
        "zero_",
        "detach",
        "t",
    ),
}
TORCH = {
    *(
        "tanh",
        "sigmoid",
        "exp",
        "log",
        "sqrt",
        "rsqrt",
        "sin",
        "cos",
        "cat",
        "stack",
        "where",
        "cumsum",
        "arange",
        "abs",
    ),
    *("addmm", "bmm", "pow", "neg", "erf"),
}
FUNCTIONAL = {
    *(
        "linear",
        "silu",
        "gelu",
        "relu",
        "conv1d",
        "conv2d",
        "conv3d",
        "max_pool2d",
        "adaptive_avg_pool2d",
        "softplus",
    ),
    *("avg_pool2d", "leaky_relu", "mish", "hardswish", "pixel_shuffle"),
}


def write_argument(value: Any, names: Names) -> str:
    """An argument structure as code."""
    if isinstance(value, Ref):
        return names(value.name)
    if isinstance(value, Sym):
        return value.expression
    if isinstance(value, Literal):
        return value.code
    if isinstance(value, tuple):
        return "[" + ", ".join(write_argument(item, names) for item in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, complex):
        return f"complex({write_argument(value.real, names)}, {write_argument(value.imag, names)})"
    return repr(value)


def write_call(operator: Operator, names: Names) -> str:
    """The operator as an expression."""
    if operator.target == "getitem":
        return f"{names(operator.inputs[0])}[{operator.args[1]}]"
    _, short, overload = operator.target.split(".")[-3:]
    modes = dict(operator.modes)

    def code(key: int | str, value: Any) -> str:
        written = write_argument(value, names)
        return _by_mode(written, write_argument(modes[key], names)) if key in modes else written

    args = [code(position, value) for position, value in enumerate(operator.args)]
    named = {key: code(key, value) for key, value in operator.kwargs}
    kwargs = [f"{key}={value}" for key, value in named.items()]
    special = _special(short, operator, args, named)
    if special is not None:
        return special
    tensor_first = bool(operator.args) and isinstance(operator.args[0], Ref)
    if short in INFIX and len(args) == 2 and not kwargs and tensor_first:
        return f"{args[0]} {INFIX[short]} {_operand(args[1])}"
    if short in COMPARE and len(args) == 2 and not kwargs and tensor_first:
        return f"{args[0]} {COMPARE[short]} {_operand(args[1])}"
    given = ", ".join([*args, *kwargs])
    if short in METHODS and tensor_first:
        return f"{args[0]}.{short}({', '.join([*args[1:], *kwargs])})"
    if short in TORCH and overload in ("default", "Tensor", "self", "Tensor_Scalar"):
        return f"torch.{short}({given})"
    if short in FUNCTIONAL and overload == "default":
        return f"F.{short}({given})"
    return f"torch.ops.{operator.target}({given})"


def _by_mode(training: str, evaluation: str) -> str:
    if (training, evaluation) in (("True", "False"), ("False", "True")):
        return "self.training" if training == "True" else "not self.training"
    return f"{training} if self.training else {evaluation}"


def _operand(code: str) -> str:
    """Code that binds no less than any operator: a size such as `8*batch` is divided by as a whole."""
    whole = ast.Name, ast.Constant, ast.Attribute, ast.Call, ast.Subscript
    return code if isinstance(ast.parse(code, mode="eval").body, whole) else f"({code})"


def _special(short: str, operator: Operator, args: list[str], kwargs: dict[str, str]) -> str | None:
    """Functions whose torch.nn.functional form takes its arguments in another order, or knows train from eval."""
    if short in ("dropout", "dropout_") and len(args) == 3 and not kwargs:
        return f"F.dropout({', '.join([*args, *(['True'] if short == 'dropout_' else [])])})"
    if short == "batch_norm" and len(args) == 9 and not kwargs:
        x, weight, bias, mean, variance, training, momentum, eps, _ = args
        return f"F.batch_norm({x}, {mean}, {variance}, {weight}, {bias}, {training}, {momentum}, {eps})"
    if short == "scaled_dot_product_attention":
        return _attention(args, kwargs)
    if operator.modes:
        return None
    if short == "embedding" and not kwargs and len(args) in (2, 3):
        padding = f", padding_idx={args[2]}" if len(args) == 3 and args[2] != "-1" else ""
        return f"F.embedding({args[1]}, {args[0]}{padding})"
    if short == "layer_norm" and not kwargs and len(args) >= 5:
        return f"F.layer_norm({', '.join(args[:5])})"
    if short == "group_norm" and not kwargs and len(args) >= 5:
        return f"F.group_norm({', '.join(args[:5])})"
    if short == "cross_entropy_loss" and not kwargs and (len(args) < 3 or args[2] == "None"):
        reduction = {None: "mean", "1": "mean", "2": "sum", "0": "none"}[
            args[3] if len(args) > 3 else None
        ]
        ignore = f", ignore_index={args[4]}" if len(args) > 4 and args[4] != "-100" else ""
        smoothing = f", label_smoothing={args[5]}" if len(args) > 5 and args[5] != "0.0" else ""
        how = f', reduction="{reduction}"' if reduction != "mean" else ""
        return f"F.cross_entropy({args[0]}, {args[1]}{ignore}{how}{smoothing})"
    return None


def _attention(args: list[str], kwargs: dict[str, str]) -> str | None:
    named = [f"attn_mask={args[3]}"] if len(args) > 3 and args[3] != "None" else []
    if len(args) > 4 and args[4] != "0.0":
        named.append(f"dropout_p={args[4]}")
    if len(args) > 5 and args[5] != "False":
        named.append(f"is_causal={args[5]}")
    known = ("scale", "enable_gqa", "is_causal", "dropout_p")
    named += [f"{key}={value}" for key, value in kwargs.items() if key in known]
    if set(kwargs) - set(known):
        return None
    return f"F.scaled_dot_product_attention({', '.join([*args[:3], *named])})"
