"""Whether a model, or a layer of it, is small enough to run while it is compiled, and at what size.

A graph that leaves sizes open is run with few samples and short sequences where more would take too
long.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pipecut.compiler.costs.rebatch import with_lengths
from pipecut.compiler.graph import Graph, Operator, Value
from pipecut.compiler.operators.lookup import short_name
from pipecut.quantities import counted, show_bytes

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


# Samples and lengths to which a batch is made smaller.
FEW_SAMPLES = 2
SHORT = 32


@dataclass(frozen=True)
class RunSize:
    """How large a batch is run: so many samples, and lengths by name where they are not the most.

    `reduced` says in words what is less than in a microbatch, "" where nothing is.
    """

    samples: int
    lengths: Mapping[str, int] = field(default_factory=dict)
    reduced: str = ""

    def shorter(self, graph: Graph) -> Mapping[str, int]:
        """Other lengths than these, of the graph's."""
        least = graph.shortest
        now = {**graph.lengths, **self.lengths}
        return {name: (length + least[name]) // 2 for name, length in now.items()}


def sizes_to_run(graph: Graph, microbatch: int) -> Iterator[RunSize]:
    """Those that a graph, traced for a microbatch, can be run at, the largest first."""
    yield RunSize(microbatch)
    samples = min(microbatch, FEW_SAMPLES) if graph.dynamic else microbatch
    text = f"of {counted(samples, 'sample')}" if samples < microbatch else ""
    if text:
        yield RunSize(samples, {}, text)
    lengths = {n: max(graph.shortest[n], min(m, SHORT)) for n, m in graph.lengths.items()}
    if lengths != graph.lengths:
        at = ", ".join(f"{name} {length}" for name, length in lengths.items())
        yield RunSize(samples, lengths, f"{text} at {at}".strip())


def size_to_run(graph: Graph, microbatch: int) -> RunSize | None:
    """The largest at which a graph may run as a whole; None where none is small enough."""
    if bytes_held(graph) > MOST_BYTES or len(graph.operators) > MOST_OPERATORS:
        return None
    return fitting(graph, sizes_to_run(graph, microbatch))


def fitting(graph: Graph, sizes: Iterable[RunSize]) -> RunSize | None:
    """The first size at which a graph is small enough."""
    return next((size for size in sizes if not why_too_large(at_size(graph, size))), None)


def at_size(graph: Graph, size: RunSize) -> Graph:
    """The graph with sizes of its values for that."""
    if not size.reduced:
        return graph
    return with_lengths(graph, size.samples, {**graph.lengths, **size.lengths})


def bytes_held(graph: Graph) -> int:
    """Of parameters and buffers."""
    buffers: int = sum(buffer.data.nbytes for buffer in graph.buffers)
    return sum(parameter.bytes for parameter in graph.parameters) + buffers


def why_too_large(graph: Graph) -> str:
    """What of a graph is beyond what a comparison may take; "" where nothing is."""
    held = bytes_held(graph)
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
