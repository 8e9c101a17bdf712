"""Graphs made by hand: a chain of layers, to start tests of compiler passes from values."""

from dataclasses import replace

import torch

from pipecut.compiler.graph import (
    BatchInput,
    Buffer,
    Graph,
    Operator,
    Parameter,
    Ref,
    Value,
)

WIDTH = 4


def made_value(
    name: str, needs_grad: bool = True, shape: tuple[int | str, ...] = ("batch", WIDTH)
) -> Value:
    """A float32 value of a microbatch of 2 samples."""
    sizes = tuple(2 if size == "batch" else int(size) for size in shape)
    strides = tuple(torch.empty(sizes, device="meta").stride())
    count = int(torch.Size(sizes).numel())
    return Value(name, shape, sizes, strides, "float32", 4 * count, needs_grad)


def made_operator(
    name: str, target: str, *inputs: str, module: str = "", **fields: object
) -> Operator:
    """An operator whose arguments are all values."""
    operator = Operator(
        name=name,
        target=target,
        args=tuple(Ref(value) for value in inputs),
        kwargs=(),
        inputs=inputs,
        module=module,
        module_class="Linear",
        source=" (model.py:1)",
    )
    return replace(operator, **fields)  # type: ignore[arg-type]


def made_parameter(value: str, *names: str, trainable: bool = True) -> Parameter:
    """A square float32 weight."""
    return Parameter(value, names, (WIDTH, WIDTH), "float32", 4 * WIDTH * WIDTH, trainable)


def made_buffer(value: str, name: str) -> Buffer:
    """A row of zeros."""
    return Buffer(value, (name,), True, torch.zeros(WIDTH))


def chain(layers: int, tied: bool = False) -> Graph:
    """`linear_0` of `x`, `linear_1` of that, ...; the loss is the last one's sum.

    With `tied`, the last layer has the weight of the first.
    """
    operators, values = [], {"x": made_value("x", needs_grad=False)}
    parameters = []
    before = "x"
    for layer in range(layers):
        shared = tied and layer == layers - 1
        weight = "weight_0" if shared else f"weight_{layer}"
        if not shared:
            names = [f"layers.{layer}.weight"]
            names += [f"layers.{layers - 1}.weight"] if tied and layer == 0 else []
            parameters.append(made_parameter(weight, *names))
        name = f"linear_{layer}"
        operators.append(
            made_operator(name, "aten.linear.default", before, weight, module=f"layers.{layer}")
        )
        values[name] = made_value(name)
        before = name
    operators.append(made_operator("loss", "aten.sum.default", before))
    values["loss"] = made_value("loss", shape=())
    values |= {p.value: made_value(p.value, shape=p.shape) for p in parameters}
    return Graph(
        operators=tuple(operators),
        values=values,
        parameters=tuple(parameters),
        buffers=(),
        batch_inputs=(BatchInput("x", "features"),),
        loss="loss",
        dynamic=True,
    )
