"""Whether a model is small enough to run as a whole while it is compiled."""

import math

from pipecut.compiler.graph import Graph, Operator, Value
from pipecut.compiler.operators.lookup import short_name
from pipecut.quantities import show_bytes

# Bytes of parameters and buffers: the model, its stage and the gradients of both are held.
MOST_BYTES = 128 * 2**20
# Bytes of all results of one forward, most of which backward keeps.
MOST_RESULTS = 512 * 2**20
# FLOPs of one forward, of which there are four, with four backwards: some seconds of one core.
MOST_FLOPS = 2e9
# Operators of one forward: each takes some 50 us forward and backward.
MOST_OPERATORS = 20_000
# Parts of names of operators that multiply: work grows with a dimension that the result lacks.
PRODUCTS = ("mm", "matmul", "linear", "conv", "attention", "einsum", "lstm", "gru", "rnn")


def why_too_large(graph: Graph) -> str:
    """What of a graph is beyond what a comparison may take; "" where nothing is."""
    held = sum(p.bytes for p in graph.parameters) + sum(b.data.nbytes for b in graph.buffers)
    if held > MOST_BYTES:
        return f"{show_bytes(held)} of parameters and buffers"
    results = sum(value.bytes for value in graph.values.values())
    if results > MOST_RESULTS:
        return f"{show_bytes(results)} of results in one microbatch"
    flops = sum(estimated_flops(operator, graph) for operator in graph.operators)
    if flops > MOST_FLOPS:
        return f"{flops / 1e9:.1f} GFLOP for the forward of one microbatch"
    if len(graph.operators) > MOST_OPERATORS:
        return f"{len(graph.operators):,} operators"
    return ""


def estimated_flops(operator: Operator, graph: Graph) -> float:
    """FLOPs of a forward from shapes alone, good to a small factor."""
    tensors = [graph.values[name] for name in operator.inputs if name in graph.values]
    result = float(_elements(graph.values[operator.name]) if operator.name in graph.values else 0)
    if not any(part in short_name(operator.target) for part in PRODUCTS):
        return result
    matrices = [value for value in tensors if len(value.sizes) > 1]
    if len(matrices) < 2:
        return result
    first, second = matrices[:2]
    if "conv" in operator.target or "linear" in operator.target:
        return 2.0 * result * _elements(second) / max(second.sizes[0], 1)
    if "attention" in operator.target:
        return 4.0 * _elements(first) * second.sizes[-2]
    if result == 0:
        # Recurrent layers return several tensors; each weight meets each row.
        rows = _elements(first) / max(first.sizes[-1], 1)
        return 2.0 * rows * sum(_elements(value) for value in matrices[1:])
    return 2.0 * result * first.sizes[-1]


def _elements(value: Value) -> int:
    return math.prod(value.sizes)
