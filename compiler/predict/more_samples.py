"""How many samples a microbatch of shorter lengths may have in the memory of the largest."""

from collections.abc import Iterator

from pipecut.compiler.costs.rebatch import with_lengths
from pipecut.compiler.graph import Graph, Value
from pipecut.compiler.stages.cut import opaque_modules
from pipecut.errors import PlanError
from pipecut.plan.schema import MoreSamples

# So many times the samples of the plan's microbatch: with as many listed samples as that takes,
# padding is near to what any number of samples would leave (benchmarks/steps/lengths.py).
TIMES = 2
# Tensors of samples alone, such as a flag for each, may grow by this share of all tensors together.
GROWTH = 1e-3


def more_samples(graph: Graph, microbatch: int) -> MoreSamples | None:
    """The longest lengths at which twice the samples take no more memory.

    No tensor of the graph is larger then, in training and in eval mode, so neither is what a stage
    keeps, sends or needs meanwhile; but for tensors of samples alone, which are small beside the
    others. None where they are not, and where a module runs as it is, of which the graph does not
    tell the tensors.
    """
    graphs = [graph, *([graph.evaluation] if graph.evaluation is not None else [])]
    if not graph.lengths or not all(each.dynamic and each.lengths for each in graphs):
        return None
    if any(opaque_modules(each.operators) for each in graphs):
        return None
    samples = TIMES * microbatch
    try:
        for lengths in _shorter(graph):
            if all(_fits(each, microbatch, samples, lengths) for each in graphs):
                return MoreSamples(samples=samples, lengths=lengths)
    except PlanError:
        # A size is one that only stage code can compute.
        return None
    return None


def _shorter(graph: Graph) -> Iterator[dict[str, int]]:
    """Lengths to try, from the longest: some models make sequences longer by an element or two."""
    for less in (0, 1, 2, 4, 8):
        lengths = {name: most // TIMES - less for name, most in graph.lengths.items()}
        if all(length >= graph.shortest[name] for name, length in lengths.items()):
            yield lengths


def _fits(graph: Graph, microbatch: int, samples: int, lengths: dict[str, int]) -> bool:
    """Whether tensors take no more than in a microbatch of the longest lengths.

    Also for the shortest lengths: a size may be a difference of the longest and the length.
    """
    shortest = {name: graph.shortest.get(name, 1) for name in lengths}
    largest = with_lengths(graph, microbatch, graph.lengths).values
    total = sum(value.bytes for value in largest.values())
    for sizes in (lengths, shortest):
        values = with_lengths(graph, samples, sizes).values
        growth = {name: value.bytes - largest[name].bytes for name, value in values.items()}
        growing = [name for name, more in growth.items() if more > 0]
        if any(_follows_length(values[name]) for name in growing):
            return False
        if sum(growth[name] for name in growing) > GROWTH * total:
            return False
    return True


def _follows_length(value: Value) -> bool:
    return any(isinstance(size, str) and size != "batch" for size in value.shape)
