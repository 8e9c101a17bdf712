"""Graphs of the compiler written by hand: a few values and operators, without a trace."""

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

import torch

from pipecut.compiler.graph import BatchInput, Buffer, Graph, Operator, Parameter, Ref, Value
from pipecut.plan.schema import ITEM_BYTES, evaluate

# Samples per microbatch in hand-made graphs.
SAMPLES = 2


def value(
    name: str,
    *shape: int | str,
    dtype: str = "float32",
    needs_grad: bool = False,
    strides: tuple[int, ...] | None = None,
) -> Value:
    """A tensor, dense where `strides` says nothing else."""
    sizes = tuple(evaluate(size, {"batch": SAMPLES}) for size in shape)
    dense = tuple(prod(sizes[dimension + 1 :]) for dimension in range(len(sizes)))
    size = prod(sizes) * ITEM_BYTES[dtype]
    return Value(name, shape, sizes, strides or dense, dtype, size, needs_grad)


def operator(name: str, target: str, *args: Any, **fields: Any) -> Operator:
    """A call; its inputs are the references among its arguments."""
    kwargs = tuple(fields.pop("kwargs", {}).items())
    return Operator(
        name,
        target=target,
        args=args,
        kwargs=kwargs,
        inputs=tuple(dict.fromkeys(_references((args, kwargs)))),
        **{"module": "layer", "module_class": "Layer", "source": " (model.py:7)", **fields},
    )


def _references(argument: Any) -> Iterable[str]:
    if isinstance(argument, Ref):
        yield argument.name
    elif isinstance(argument, tuple):
        for item in argument:
            yield from _references(item)


def parameter(value: Value, trainable: bool = True) -> Parameter:
    """The parameter of a value, named as it."""
    return Parameter(value.name, (value.name,), value.sizes, value.dtype, value.bytes, trainable)


def buffer(value: Value, data: torch.Tensor | None = None) -> Buffer:
    """The buffer of a value, named as it."""
    zeros = torch.zeros(value.sizes, dtype=getattr(torch, value.dtype))
    return Buffer(value.name, (value.name,), True, zeros if data is None else data)


def graph(
    operators: Sequence[Operator],
    values: Iterable[Value],
    parameters: Iterable[str] = (),
    batch: Iterable[str] = (),
    buffers: Iterable[str] = (),
    **fields: Any,
) -> Graph:
    """A graph whose loss is its last operator; inputs are given by their values' names."""
    by_name = {v.name: v for v in values}
    return Graph(
        tuple(operators),
        values=by_name,
        parameters=tuple(parameter(by_name[name]) for name in parameters),
        buffers=tuple(buffer(by_name[name]) for name in buffers),
        batch_inputs=tuple(BatchInput(name, name) for name in batch),
        **{"loss": operators[-1].name if operators else "", "dynamic": True, **fields},
    )
